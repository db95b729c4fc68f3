"""Remedies (torch) against the loss of plasticity; each is off by default.

Both draw on initial weights, which ``policies.initial`` gives again at any time from the spec and a seed, so
that nothing has to be kept for them. A log standard deviation is no weight of the network, and is left alone.
"""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from policies.checkpoint import Arrays
from policies.initial import initial_checkpoint
from policies.learner_state import LearnerState
from policies.networks import Network
from policies.settings import LearnerSettings
from policies.spec import PolicySpec


class Remedies:
    """What the settings ask for, for the networks of one learner.

    Args:
        spec: the policy's.
        settings: ``l2_init`` and ``shrink_perturb``.
        state: its proximal average moves with the policy.
        seed: the run's: the initial weights are those that version 1 began with.
    """

    def __init__(
        self, spec: PolicySpec, settings: LearnerSettings, state: LearnerState, *, seed: int
    ) -> None:
        self._spec, self._settings, self._state = spec, settings, state
        self._anchors: dict[Network, Tensor] = {}
        if settings.l2_init > 0:
            initial = initial_checkpoint(spec, seed=seed).weights
            self._anchors = {network: _on(network, initial) for network in (state.policy, state.value)}

    def pull(self, networks: Iterable[Network]) -> None:
        """Add the gradient of λ ‖θ - θ₀‖² to that of one minibatch, when ``l2_init`` is on."""
        if self._settings.l2_init > 0:
            for network in networks:
                pull_(network, self.anchor(network), strength=self._settings.l2_init)

    def anchor(self, network: Network) -> Tensor:
        """θ₀ of a network, without its log standard deviations, [W]; only when ``l2_init`` is on."""
        return self._anchors[network]

    def perturb(self, networks: Iterable[Network], *, seed: int) -> None:
        """Mix fresh weights into networks that an update has trained, when ``shrink_perturb`` is on.

        Args:
            networks: the policy's, the value's, or both.
            seed: the update's.
        """
        if self._settings.shrink_perturb > 0:
            own_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])  # not the shuffling's
            fresh = initial_checkpoint(self._spec, seed=own_seed).weights
            for network in networks:
                self._mix(network, _on(network, fresh))

    def _mix(self, network: Network, fresh: Tensor) -> None:
        share, proximal = self._settings.shrink_perturb, self._state.proximal
        shrink_and_perturb_(network.flat, fresh, share=share)
        if network is self._state.policy and proximal is not None:
            # The average follows, so that the policy stays as far from it as it was.
            shrink_and_perturb_(proximal.flat, fresh, share=share)
            proximal.retained *= 1.0 - share


def pull_(network: Network, initial: Tensor, *, strength: float) -> None:
    """Gradient <- gradient + 2 λ (θ - θ₀), in place.

    L2 Init: Kumar, Marklund & Van Roy 2023, "Maintaining plasticity in continual learning via regenerative
    regularization", section 4. Part of the loss, so that clipping and Adam treat it like the rest.

    Args:
        network: θ and the gradient.
        initial: θ₀, of the weights without the log standard deviations, [W].
        strength: λ.
    """
    n = len(initial)
    network.gradient[:n].add_(network.flat[:n] - initial, alpha=2.0 * strength)


def shrink_and_perturb_(flat: Tensor, fresh: Tensor, *, share: float) -> None:
    """θ <- (1 - share) θ + share · fresh, in place.

    Ash & Adams 2020, "On warm-starting neural network training", section 4; their noise is fresh initial
    weights here.

    Args:
        flat: θ [P].
        fresh: initial weights without the log standard deviations, [W], W <= P.
        share: 0 to 1.
    """
    flat[: len(fresh)].lerp_(fresh, share)


def _on(network: Network, weights: Arrays) -> Tensor:
    """Lay weights out as on a network's flat vector, but for its log standard deviations, which are last."""
    packed = network.layout.pack(weights, device=str(network.flat.device))
    return packed if network.log_std is None else packed[: -len(network.log_std)]
