"""EarlyStop (torch): ends the epochs of an update without making the host wait for the device.

Whether an update has moved far enough is known on the device only, and to ask it is to wait for everything
that was sent there before. So nobody asks: every epoch is run, and the state is kept as it was after the one
that went too far. Keeping is a choice between two tensors, which the device makes by itself.
"""

import torch
from torch import Tensor

from policies.learner_state import LearnerState
from policies.optimizer import SGD, Adam


class EarlyStop:
    """The state of a learner as it was when the epochs should have ended.

    Args:
        state: whose tensors are kept; as long as nothing passed the bound, as they are.
        target_kl: the bound of an epoch's mean KL, in nats.
    """

    def __init__(self, state: LearnerState, target_kl: float) -> None:
        self._state, self._target_kl = state, target_kl
        self._live = _tensors_of(state)
        self._kept = [tensor.clone() for tensor in self._live]
        self._stopped = torch.zeros((), dtype=torch.bool, device=state.policy.flat.device)
        self._counters = [_counters_of(state)]
        self.epochs = torch.zeros((), device=self._stopped.device)
        """How many epochs count, [] float32 on the device."""

    def after_epoch(self, kl: Tensor) -> None:
        """Keep what the epoch did, unless an earlier one went too far; ``kl`` [] is this one's mean."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch.where(self._stopped, kept, live, out=kept)
        self.epochs += ~self._stopped
        self._stopped |= kl > self._target_kl
        self._counters.append(_counters_of(self._state))

    def restore(self) -> None:
        """Put the tensors back to what was kept."""
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept)

    def restore_counters(self, epochs: int) -> None:
        """Put what the host counts back to how it was after so many epochs, once that is known."""
        state = self._state
        policy_steps, value_steps, proximal = self._counters[epochs]
        for optimizer, steps in (
            (state.policy_optimizer, policy_steps),
            (state.value_optimizer, value_steps),
        ):
            if isinstance(optimizer, Adam):
                optimizer.take_back(optimizer.steps - steps)
        if state.proximal is not None and proximal is not None:
            state.proximal.counters = proximal


def _tensors_of(state: LearnerState) -> list[Tensor]:
    tensors = [state.policy.flat, state.value.flat]
    for optimizer in (state.policy_optimizer, state.value_optimizer):
        if isinstance(optimizer, Adam):
            tensors += [optimizer.m, optimizer.v]
    if state.proximal is not None:
        tensors.append(state.proximal.flat)
    return tensors


def _counters_of(state: LearnerState) -> tuple[int, int, tuple[float, float, int] | None]:
    return (
        _steps_of(state.policy_optimizer),
        _steps_of(state.value_optimizer),
        None if state.proximal is None else state.proximal.counters,
    )


def _steps_of(optimizer: Adam | SGD) -> int:
    return optimizer.steps if isinstance(optimizer, Adam) else 0
