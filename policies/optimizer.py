"""Optimizers (torch) on one flat vector, with explicit state; clipping to a norm."""

from typing import Protocol

import torch
from torch import Tensor

NORM_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_


class Optimizer(Protocol):
    """Moves a flat vector of weights along a gradient."""

    def step(self, weights: Tensor, gradient: Tensor, *, learning_rate: float) -> None:
        """Change ``weights`` in place."""


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), ε added after the bias-corrected square root.

    A learning rate scaled by the trust in a batch scales the step only: the moments see the full gradient.

    Attributes:
        m: decayed mean of gradients.
        v: decayed mean of squared gradients.
        steps: how many gradients they have seen in all.
        taken: how many of these since it was constructed.
        beta1, beta2, epsilon: its constants.
    """

    def __init__(
        self,
        m: Tensor,
        v: Tensor,
        *,
        steps: int,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-5,
    ) -> None:
        self.m = m
        self.v = v
        self.steps = steps
        self.taken = 0
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self._step = torch.zeros((), device=m.device)

    def step(self, weights: Tensor, gradient: Tensor, *, learning_rate: float) -> None:
        """Update the moments, then ``weights`` in place."""
        self.move(weights, gradient, self.m, self.v, learning_rate=learning_rate)

    def move(self, weights: Tensor, gradient: Tensor, m: Tensor, v: Tensor, *, learning_rate: float) -> None:
        """Take a step whose moments are ``m`` and ``v``: the same numbers as its own, elsewhere.

        One kernel does it all, on a CPU and on a GPU, in one pass over memory: torch.optim.Adam's, fused.
        """
        self.steps += 1
        self.taken += 1
        torch._fused_adam_(
            [weights],
            [gradient],
            [m],
            [v],
            [],
            [self._step.fill_(self.steps)],
            lr=learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )

    def take_back(self, steps: int) -> None:
        """Count so many steps less: their results were thrown away."""
        self.steps -= steps
        self.taken -= steps

    def retained(self) -> tuple[float, float]:
        """How much of the first m and v is left in them: (β₁ⁿ, β₂ⁿ)."""
        return self.beta1**self.taken, self.beta2**self.taken


class SGD:
    """Plain gradient descent: keeps nothing."""

    def step(self, weights: Tensor, gradient: Tensor, *, learning_rate: float) -> None:
        """Weights - learning_rate · gradient."""
        weights.add_(gradient, alpha=-learning_rate)


def clip_to_norm_(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Cut gradients to a common norm of at most ``max_norm``, in place; return the norm before, []."""
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    factor = (max_norm / (norm + NORM_EPSILON)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm
