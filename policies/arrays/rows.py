"""ArrayRows (numpy): the steps of a batch as the columns that ``policies.arrays.epochs`` works on."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from policies.rows import Rows

Float32 = NDArray[np.float32]

LINE = 16  # float32 numbers in a line of the cache


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayRows:
    """N steps; the last axis is the step but in ``inputs``. All but the last two are as in ``Rows``.

    Attributes:
        inputs: [N, D + 1] float32, the observations and a last column of ones.
        action: [A, N] float32; for discrete ones [k, N], 1 at the action that was taken, else 0.
        advantage: [N] float32.
        target: [N] float32.
        behavior_logp: [N] float32.
        start_logp: [N] float32.
        start_parameters: [outputs, N] float32; None where nothing is compared with them.
        barred: [n, N] bool, the actions that were not allowed, or None.
        logged: [N] bool or None.
        weight: [N] float32 or None.
    """

    inputs: Float32
    action: Float32
    advantage: Float32
    target: Float32
    behavior_logp: Float32
    start_logp: Float32
    start_parameters: Float32 | None = None
    barred: NDArray[np.bool_] | None = None
    logged: NDArray[np.bool_] | None = None
    weight: Float32 | None = None

    @classmethod
    def of(cls, rows: Rows, *, outputs: int, with_parameters: bool) -> "ArrayRows":
        """Take over tensors of the CPU.

        Args:
            rows: the batch.
            outputs: of the policy's network.
            with_parameters: whether the policy at the start will be compared with.
        """
        inputs = np.empty((len(rows), rows.obs.shape[1] + 1), np.float32)
        inputs[:, :-1], inputs[:, -1] = rows.obs.numpy(), 1.0
        compared = rows.start_parameters if with_parameters else None
        return cls(
            inputs=inputs,
            action=_actions(rows.action, outputs),
            advantage=rows.advantage.numpy(),
            target=rows.target.numpy(),
            behavior_logp=rows.behavior_logp.numpy(),
            start_logp=rows.start_logp.numpy(),
            start_parameters=None if compared is None else _transposed(compared),
            barred=None if rows.mask is None else _transposed(~rows.mask),
            logged=None if rows.logged is None else rows.logged.numpy(),
            weight=None if rows.weight is None else rows.weight.numpy(),
        )

    def __len__(self) -> int:
        return len(self.advantage)

    def empty(self) -> "ArrayRows":
        """Return as many rows of the same kind, to be filled by ``shuffle_into``."""
        return ArrayRows(**{name: np.empty_like(array) for name, array in self._arrays()})

    def shuffle_into(self, into: "ArrayRows", order: NDArray[np.int64]) -> None:
        """Write the rows in the order of ``order`` [N]; nothing is allocated."""
        for name, array in self._arrays():
            axis = 0 if name == "inputs" else -1
            np.take(array, order, axis=axis, out=getattr(into, name), mode="clip")  # "raise" would copy

    def part(self, start: int, stop: int) -> "ArrayRows":
        """Rows start … stop - 1, without copying."""
        if stop - start == len(self):
            return self
        arrays = {
            name: array[start:stop] if name == "inputs" else array[..., start:stop]
            for name, array in self._arrays()
        }
        return ArrayRows(**arrays)

    def chunks(self, most: int) -> list["ArrayRows"]:
        """Cut into as few parts of at most ``most`` rows as will do, of about even length.

        All but the last are whole lines of the cache long, so that every part begins with one.
        """
        lines = -(-len(self) // LINE)
        count = -(-lines // (most // LINE))
        cuts = [min(len(self), LINE * -(-lines * i // count)) for i in range(count + 1)]
        return [self.part(start, stop) for start, stop in itertools.pairwise(cuts) if stop > start]

    def _arrays(self) -> list[tuple[str, NDArray[Any]]]:
        arrays = ((name, getattr(self, name)) for name in self.__slots__)
        return [(name, array) for name, array in arrays if array is not None]


def _actions(action: Tensor, outputs: int) -> Float32:
    if action.ndim > 1:
        return _transposed(action)
    return np.asarray(action.numpy() == np.arange(outputs)[:, None], np.float32)


def _transposed(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.numpy().T)
