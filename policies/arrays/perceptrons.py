"""Perceptrons (no autograd): several, side by side, with gradients derived by hand.

Layer l is one matrix A_l = [W_l b_l], applied to its input with a row of ones below it; steps are columns:

    H_0 = [x; 1],   H_l = [act(A_{l-1} H_{l-1}); 1],   y = A_L H_L

    D_L = ∂loss/∂y,   ∂loss/∂A_l = D_l H_lᵀ,   D_{l-1} = (W_lᵀ D_l) ∘ act'(Z_{l-1})

act' from the output h alone: 1 - h² (tanh), [h > 0] (relu). So a bias costs no operation of its own.

The S networks have the same hidden layers and are the rows of one block [S, P]; matrix l of all of them is a
view [S, out, in + 1] of it, and one call works on all. Their heads differ in width: the narrower one is
filled up with rows of zeros, which stay zero as their gradient does. At least two rows, because BLAS has no
fast way for a matrix of one row.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.arrays.rows import LINE, Float32
from policies.networks import Layout
from policies.spec import Activation

HEAD_ROWS_MIN = 2
WORKSPACES = 8  # lengths of chunks whose views are kept: a minibatch has two, and batches differ
FEW_STEPS = 128  # below, calls cost more than what they do, and numpy's cost less

# Autograd's own kernels: one pass over memory where numpy needs three.
_TANH_BACKWARD = torch.ops.aten.tanh_backward.grad_input
_THRESHOLD_BACKWARD = torch.ops.aten.threshold_backward.grad_input


class Block:
    """Where the weights of S networks lie in a block [S, P].

    Args:
        layouts: of flat vectors; the same hidden layers in each.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        shapes = [_matrix_shapes(layout) for layout in layouts]
        head = max(HEAD_ROWS_MIN, *(each[-1][0] for each in shapes))
        self.widths = [fan_in for _, fan_in in shapes[0]] + [head]
        self.weights = sum(out * (fan_in + 1) for fan_in, out in itertools.pairwise(self.widths))
        self._tail = max(tail_of(layout) for layout in layouts)
        # A network's weights begin with a line of the cache.
        self.shape = (len(layouts), -(-(self.weights + self._tail) // LINE) * LINE)
        self._places = [self._places_of(layout) for layout in layouts]

    def matrices(self, block: Tensor) -> list[Tensor]:
        """Views [S, out, in + 1] of a block, one a layer."""
        views, start = [], 0
        for fan_in, out in itertools.pairwise(self.widths):
            stop = start + out * (fan_in + 1)
            views.append(block[:, start:stop].view(len(block), out, fan_in + 1))
            start = stop
        return views

    def pack(self, flats: Sequence[Tensor], into: Tensor) -> None:
        """Copy a flat vector of each network into a block, zeros between; the end of one may be left out."""
        block = into.numpy()
        block[:] = 0.0
        for row, flat, places in zip(block, flats, self._places, strict=True):
            row[places[: len(flat)]] = flat.numpy()

    def unpack(self, block: Tensor, flats: Sequence[Tensor]) -> None:
        """Write a block back into the flat vectors, in place."""
        for row, flat, places in zip(block.numpy(), flats, self._places, strict=True):
            np.take(row, places, out=flat.numpy(), mode="clip")  # "raise" would copy

    def tail(self, block: Tensor) -> Float32:
        """View [A] of what follows the first network's matrices."""
        return block[0, self.weights : self.weights + self._tail].numpy()

    def _places_of(self, layout: Layout) -> NDArray[np.int64]:
        """For each number of a flat vector, its place in the block's row, [P_s]."""
        every = torch.arange(self.shape[1])
        places = []
        for matrix, (out, _) in zip(self.matrices(every[None]), _matrix_shapes(layout), strict=True):
            places += [matrix[0, :out, :-1].reshape(-1), matrix[0, :out, -1]]
        found: NDArray[np.int64] = torch.cat([*places, every[self.weights :][: tail_of(layout)]]).numpy()
        return found


def _matrix_shapes(layout: Layout) -> list[tuple[int, ...]]:
    return [shape for shape in layout.shapes.values() if len(shape) == 2]  # noqa: PLR2004 - biases have one


def tail_of(layout: Layout) -> int:
    """How many numbers follow a network's last layer: a Gaussian's log standard deviations."""
    return layout.sizes[-1] if len(layout.sizes) % 2 else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Library:
    """Who does the arithmetic: numpy for few steps, as its calls cost less; torch's products are faster.

    Attributes:
        view: a tensor as that library sees it, on the same memory.
        product: of stacks of matrices.
        tanh: of each number.
        floor: the larger one of each number and another.
    """

    view: Callable[[Tensor], Any]
    product: Callable[..., Any]
    tanh: Callable[..., Any]
    floor: Callable[..., Any]


NUMPY = Library(view=Tensor.numpy, product=np.matmul, tanh=np.tanh, floor=np.maximum)
TORCH = Library(view=lambda tensor: tensor, product=torch.bmm, tanh=torch.tanh, floor=torch.clamp_min)


def library_for(n: int) -> Library:
    """Return the faster one for n steps at once."""
    return NUMPY if n < FEW_STEPS else TORCH


class Inputs:
    """What S networks see of n steps, as their products want it.

    Args:
        inputs_nd: [n, D + 1], the last column ones; read at every pass.
        networks: S.

    Attributes:
        n: how many steps.
        rows: [S, n, D + 1].
        columns: [S, D + 1, n] view of them.
        single: the same for one network.
    """

    def __init__(self, inputs_nd: Float32, networks: int) -> None:
        self.n = len(inputs_nd)
        rows = torch.from_numpy(inputs_nd).expand(networks, -1, -1)
        view = library_for(self.n).view
        self.rows, self.columns = view(rows), view(rows.transpose(1, 2))
        self.single = self if networks == 1 else Inputs(inputs_nd, 1)


class Workspace:
    """What one pass over n steps writes; seen by the library that is faster for n, but for the tensors.

    Attributes:
        library: which that is.
        hidden: [S, width + 1, n] each, the outputs of the hidden layers above a row of ones.
        units: [S, width, n] views of them, without the ones; and as tensors. On the way back a layer's
            ∂loss/∂Z takes the place of its outputs, once nobody needs these any more.
        pieces: [width, n] or [S, width, n] views of them, in parts that are quick to work on.
        across: [S, n, width + 1] views of them.
        outputs: [S, k, n].
        delta: [S, k, n] gradient of the loss in the outputs, for the caller to fill; zeros where it does not.
        deltas: ``units``, and last ``delta``.
        behind: [S, width, n] each, the gradient in the hidden layers' outputs, all in one place.
    """

    def __init__(self, memory: Tensor, networks: int, widths: Sequence[int], n: int) -> None:
        hidden = widths[1:-1]
        self.library = library_for(n)
        view = self.library.view
        pieces = memory.view(networks, -1, _apart(n))[:, :, :n].split(Workspace.rows(widths), dim=1)
        *self._layers, outputs, self._delta, behind = pieces
        self.hidden = [view(layer) for layer in self._layers]
        self.unit_tensors = [layer[:, :-1] for layer in self._layers]
        self.units = [view(units) for units in self.unit_tensors]
        self.pieces = [list(units) if self.library is NUMPY else [units] for units in self.units]
        self.across = [view(layer.transpose(1, 2)) for layer in self._layers]
        self.outputs: Float32 = outputs.numpy()
        self.last = view(outputs)
        self.delta: Float32 = self._delta.numpy()
        self.deltas = [*self.units, view(self._delta)]
        self.behind_tensors = [behind[:, :width] for width in hidden]
        self.behind = [view(tensor) for tensor in self.behind_tensors]

    @staticmethod
    def rows(widths: Sequence[int]) -> list[int]:
        """How many rows of n numbers each part takes for a network: layers, outputs, delta, behind."""
        *hidden, k = widths[1:]
        return [*(width + 1 for width in hidden), k, k, max(hidden, default=0)]

    @staticmethod
    def numbers(networks: int, widths: Sequence[int], n: int) -> int:
        """How much memory it needs, in float32 numbers."""
        return networks * sum(Workspace.rows(widths)) * _apart(n)

    def open(self) -> "Workspace":
        """Write what no pass does, after another one used the memory."""
        for layer in self._layers:
            layer[:, -1] = 1.0
        self._delta.zero_()
        return self


def _apart(n: int) -> int:
    """How far rows of n steps lie apart: where there are many, an odd number of lines of the cache.

    A power of 2 would put a whole column into a few places of it: 1,024 steps took a fifth longer.
    """
    return n if n < FEW_STEPS else LINE * (-(-n // LINE) | 1)


class Perceptrons:
    """Passes of S networks over the same inputs, one at a time, in memory that stays.

    Args:
        block: where their weights lie.
        weights: [S, P]; read at every pass.
        activation: between layers.
    """

    def __init__(self, block: Block, weights: Tensor, activation: Activation) -> None:
        self._block, self._tanh = block, activation == "tanh"
        matrices = block.matrices(weights)
        downward = [matrix[:, :, :-1].transpose(1, 2) for matrix in matrices]
        self._matrices = {library: _views(library, matrices) for library in (NUMPY, TORCH)}
        self._downward = {library: _views(library, downward) for library in (NUMPY, TORCH)}
        self._networks = len(weights)
        self._memory = torch.empty(0)
        self._workspaces: dict[int, Workspace] = {}
        self._open: Workspace | None = None

    def forward(self, inputs: Inputs) -> Workspace:
        """Outputs for n steps, in a workspace that the next call overwrites."""
        work = self._workspace(inputs.n)
        library, rows = work.library, inputs.columns
        *matrices, head = self._matrices[library]
        for i, matrix in enumerate(matrices):
            library.product(matrix, rows, out=work.units[i])
            for piece in work.pieces[i]:
                if self._tanh:
                    library.tanh(piece, out=piece)
                else:
                    library.floor(piece, 0.0, out=piece)
            rows = work.hidden[i]
        library.product(head, rows, out=work.last)
        return work

    def backward(
        self, inputs: Inputs, work: Workspace, gradient: "Gradient", *, accumulate: bool = False
    ) -> None:
        """Write the gradient in each matrix, from ``work`` as ``forward`` left it and ``work.delta``.

        Args:
            inputs: of n steps.
            work: what ``forward`` returned; spoiled.
            gradient: where the result goes.
            accumulate: whether it is added to what is there.
        """
        library = work.library
        product, into, downward = library.product, gradient.views[library], self._downward[library]
        for layer in range(len(work.hidden), -1, -1):
            below = work.across[layer - 1] if layer else inputs.rows
            if accumulate:
                into[layer] += product(work.deltas[layer], below)
            else:
                product(work.deltas[layer], below, out=into[layer])
            if layer:
                product(downward[layer], work.deltas[layer], out=work.behind[layer - 1])
                self._through(work.behind_tensors[layer - 1], work.unit_tensors[layer - 1])

    def _through(self, delta: Tensor, outputs: Tensor) -> None:
        """Put ``delta`` times act' of a hidden layer in the place of its outputs."""
        if self._tanh:
            _TANH_BACKWARD(delta, outputs, grad_input=outputs)
        else:
            _THRESHOLD_BACKWARD(delta, outputs, 0.0, grad_input=outputs)

    def _workspace(self, n: int) -> Workspace:
        """Return that of n steps; all of them lie in the same memory."""
        work = self._workspaces.get(n)
        if work is None:
            work = self._new_workspace(n)
        if work is not self._open:
            self._open = work.open()
        return work

    def _new_workspace(self, n: int) -> Workspace:
        sizes = self._networks, self._block.widths, n
        needed = Workspace.numbers(*sizes)
        if needed > len(self._memory):
            self._memory = torch.empty(needed)
            self._workspaces.clear()
        elif len(self._workspaces) == WORKSPACES:
            self._workspaces.clear()
        work = self._workspaces[n] = Workspace(self._memory[:needed], *sizes)
        return work


class Gradient:
    """A block of gradients [S, P], and its matrices as each library sees them.

    Args:
        block: where they lie.
        memory: [S, P].
    """

    def __init__(self, block: Block, memory: Tensor) -> None:
        matrices = block.matrices(memory)
        self.views = {library: _views(library, matrices) for library in (NUMPY, TORCH)}


def _views(library: Library, tensors: Sequence[Tensor]) -> list[Any]:
    return [library.view(tensor) for tensor in tensors]
