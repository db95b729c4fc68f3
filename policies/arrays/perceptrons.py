"""Perceptrons (numpy): several with the same hidden layers, side by side, with hand-derived gradients.

Layer l is one matrix A_l = [W_l b_l], applied to its input with a row of ones below it; steps are columns:

    H_0 = [x; 1],   H_l = [act(A_{l-1} H_{l-1}); 1],   y = A_L H_L

    D_L = ∂loss/∂y,   ∂loss/∂A_l = D_l H_lᵀ,   D_{l-1} = (W_lᵀ D_l) ∘ act'(Z_{l-1})

act' from the output h alone: 1 - h² (tanh), [h > 0] (relu). So a bias costs no operation of its own, and
every elementwise one is over contiguous memory.

The S networks are the rows of one block [S, P]; matrix l of all of them is a view [S, out, in + 1] of it, and
one call works on all. Their heads differ in width: the narrower one is filled up with rows of zeros, which
stay zero as their gradient does. At least two rows, because BLAS has no fast way for a matrix of one row.
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.networks import Layout
from policies.spec import Activation

Float32 = NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.int64)

HEAD_ROWS_MIN = 2

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
        self.shape = (len(layouts), self.weights + self._tail)
        self._places = [self._places_of(layout) for layout in layouts]

    def matrices(self, block: NDArray[Number]) -> list[NDArray[Number]]:
        """Views [S, out, in + 1] of a block, one a layer."""
        views, start = [], 0
        for fan_in, out in itertools.pairwise(self.widths):
            stop = start + out * (fan_in + 1)
            views.append(block[:, start:stop].reshape(len(block), out, fan_in + 1))
            start = stop
        return views

    def pack(self, flats: Sequence[Tensor]) -> Float32:
        """Copy a flat vector of each network into a new block; the end of one may be left out."""
        block = np.zeros(self.shape, np.float32)
        for row, flat, places in zip(block, flats, self._places, strict=True):
            row[places[: len(flat)]] = flat.numpy()
        return block

    def unpack(self, block: Float32, flats: Sequence[Tensor]) -> None:
        """Write a block back into the flat vectors, in place."""
        for row, flat, places in zip(block, flats, self._places, strict=True):
            flat.copy_(torch.from_numpy(row[places]))

    def tail(self, block: Float32) -> Float32:
        """View [A] of what follows the first network's matrices."""
        return block[0, self.weights :]

    def _places_of(self, layout: Layout) -> NDArray[np.int64]:
        """For each number of a flat vector, its place in the block's row, [P_s]."""
        every = np.arange(self.shape[1])
        places = []
        for matrix, (out, _) in zip(self.matrices(every[None]), _matrix_shapes(layout), strict=True):
            places += [matrix[0, :out, :-1].reshape(-1), matrix[0, :out, -1]]
        return np.concatenate([*places, every[self.weights :][: tail_of(layout)]])


def _matrix_shapes(layout: Layout) -> list[tuple[int, ...]]:
    return [shape for shape in layout.shapes.values() if len(shape) == 2]  # noqa: PLR2004 - biases have one


def tail_of(layout: Layout) -> int:
    """How many numbers follow a network's last layer: a Gaussian's log standard deviations."""
    return layout.sizes[-1] if len(layout.sizes) % 2 else 0


class Workspace:
    """What one pass over n steps writes.

    Attributes:
        hidden: [S, width + 1, n] each, the outputs of the hidden layers above a row of ones.
        pieces: [width, n] views of them for each network, without the ones: contiguous, which is faster.
        units: [S, width, n] tensors of all networks, on the same memory.
        outputs: [S, k, n].
        delta: [S, k, n] gradient of the loss in the outputs, for the caller to fill; zeros where it does not.
        deltas: [S, width, n] each, the gradients in the hidden layers' sums.
        delta_tensors: on the same memory.
    """

    def __init__(self, networks: int, widths: Sequence[int], n: int) -> None:
        *hidden, k = widths[1:]
        self.hidden = [np.ones((networks, width + 1, n), np.float32) for width in hidden]
        self.pieces = [[rows[:-1] for rows in layer] for layer in self.hidden]
        self.units = [torch.from_numpy(layer[:, :-1]) for layer in self.hidden]
        self.outputs = np.empty((networks, k, n), np.float32)
        self.delta = np.zeros((networks, k, n), np.float32)
        memory = np.empty((2, networks * max(hidden, default=0) * n), np.float32)
        sizes = [networks * width * n for width in hidden]
        self.deltas = [
            memory[i % 2, :size].reshape(networks, width, n)
            for i, (size, width) in enumerate(zip(sizes, hidden, strict=True))
        ]
        self.delta_tensors = [torch.from_numpy(delta) for delta in self.deltas]


class Perceptrons:
    """Passes of S networks over the same inputs; workspaces are kept for the next chunk of that many steps.

    Args:
        block: where their weights lie.
        weights: [S, P]; read at every pass.
        activation: between layers.
    """

    def __init__(self, block: Block, weights: Float32, activation: Activation) -> None:
        self._block, self._tanh = block, activation == "tanh"
        self._matrices = block.matrices(weights)
        self._downward = [matrix[:, :, :-1].transpose(0, 2, 1) for matrix in self._matrices]
        self._workspaces: dict[int, Workspace] = {}

    def forward(self, inputs_nd: Float32) -> Workspace:
        """Outputs of inputs [n, D + 1], in a workspace that the next call with that n overwrites."""
        n = len(inputs_nd)
        if n not in self._workspaces:
            self._workspaces[n] = Workspace(len(self._matrices[0]), self._block.widths, n)
        work = self._workspaces[n]
        rows: Float32 = inputs_nd.T
        for matrix, hidden, pieces in zip(self._matrices, work.hidden, work.pieces, strict=False):
            np.matmul(matrix, rows, out=hidden[:, :-1])
            for piece in pieces:
                if self._tanh:
                    np.tanh(piece, out=piece)
                else:
                    np.maximum(piece, 0.0, out=piece)
            rows = hidden
        np.matmul(self._matrices[-1], rows, out=work.outputs)
        return work

    def backward(self, inputs_nd: Float32, work: Workspace, gradients: Sequence[Float32]) -> None:
        """Write the gradient in each matrix, from ``work`` as ``forward`` left it and ``work.delta``.

        Args:
            inputs_nd: [n, D + 1].
            work: what ``forward`` returned.
            gradients: [S, out, in + 1] each, for the result.
        """
        delta = work.delta
        for layer in range(len(work.hidden) - 1, -1, -1):
            np.matmul(delta, work.hidden[layer].transpose(0, 2, 1), out=gradients[layer + 1])
            delta = np.matmul(self._downward[layer + 1], delta, out=work.deltas[layer])
            self._through(work.delta_tensors[layer], work.units[layer])
        np.matmul(delta, inputs_nd, out=gradients[0])

    def _through(self, delta: Tensor, outputs: Tensor) -> None:
        """Multiply ``delta`` with act' of a hidden layer, in place."""
        if self._tanh:
            _TANH_BACKWARD(delta, outputs, grad_input=delta)
        else:
            _THRESHOLD_BACKWARD(delta, outputs, 0.0, grad_input=delta)
