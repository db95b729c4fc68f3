"""Rows (torch): the steps of a batch as tensors, to be shuffled and cut together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """N steps; nothing in it changes during an update.

    Attributes:
        obs: [N, D] float32, flattened and normalized; or uint8, where all are bytes.
        action: [N] int64 or [N, A] float32.
        advantage: [N] float32.
        target: [N] float32, of the value network, in its own scale.
        behavior_logp: [N] float32; anything where not logged.
        start_logp: [N] float32, under the policy at the start of the update.
        start_parameters: [N, outputs] float32, that policy's log-probabilities or means; None in an update of
            one step, whose own pass is the first to evaluate that policy and writes ``start_logp``.
        mask: [N, n] bool or None.
        logged: [N] bool, whether there is a behavior log-probability; None: for every step.
        weight: [N] float32 of the policy's loss, with mean 1; None: 1 for every step.
    """

    obs: Tensor
    action: Tensor
    advantage: Tensor
    target: Tensor
    behavior_logp: Tensor
    start_logp: Tensor
    start_parameters: Tensor | None
    mask: Tensor | None = None
    logged: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.advantage)

    def take(self, index: Tensor) -> "Rows":
        """Rows in the order of ``index`` [M]."""
        return self._each(lambda tensor: tensor.index_select(0, index))

    def part(self, start: int, stop: int) -> "Rows":
        """Rows start … stop - 1, without copying."""
        return self._each(lambda tensor: tensor[start:stop])

    def chunks(self, most: int) -> Iterator["Rows"]:
        """Cut into as few parts of at most ``most`` rows as will do, of even length."""
        count = -(-len(self) // most)
        for i in range(count):
            yield self.part(len(self) * i // count, len(self) * (i + 1) // count)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        tensors = ((field.name, getattr(self, field.name)) for field in fields(self))
        return Rows(**{name: change(tensor) for name, tensor in tensors if tensor is not None})
