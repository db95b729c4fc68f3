"""Learner (torch): trains a checkpoint's networks on batches, and says what it changed."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from policies.algorithms import create_algorithm
from policies.checkpoint import Checkpoint, Delta
from policies.epochs import orders
from policies.input_scale import change_in
from policies.inputs import real_numbers
from policies.learner_state import LearnerState
from policies.lr_scaling import scaled_learning_rate
from policies.normalizer import RunningStatistics
from policies.passes import Path, chosen_path, create_passes
from policies.preparation import Preparation, ratios_of
from policies.remedies import Remedies
from policies.report import UpdateReport
from policies.settings import LearnerSettings
from policies.trust import Trust

DEVICES = ("cpu", "cuda")


class Learner:
    """Trains from one version on; several updates may go into one delta.

    The observation statistics are the base version's throughout (the first batch's, when it has none); what a
    batch adds to them counts from the next version on.

    Args:
        checkpoint: the base version.
        settings: the learning rule.
        device: "cpu" or "cuda".
        seed: the run's: of the initial weights, to which ``l2_init`` pulls.
        update_observation_statistics: whether the delta carries the statistics of the observations.
        clock: seconds, for the report.
        path: the code that trains: "auto" chooses by the networks and the device; "numpy", "torch".
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: LearnerSettings,
        *,
        device: str = "cpu",
        seed: int = 0,
        update_observation_statistics: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        path: Path = "auto",
    ) -> None:
        if device not in DEVICES:
            raise ValueError(f'device is {device!r}; accepted: "cpu" or "cuda"')
        self._base = checkpoint
        self._settings = settings
        self._updates_statistics = update_observation_statistics
        self._clock = clock
        self._algorithm = create_algorithm(settings)
        self._path = chosen_path(checkpoint.spec, self._algorithm, device=device, path=path)
        self._state = LearnerState(checkpoint, settings, device=device)
        self._remedies = Remedies(checkpoint.spec, settings, self._state, seed=seed)
        self._preparation = Preparation(checkpoint, self._state, settings, self._algorithm, device=device)
        # A single step is over the policy at the start: its own pass says what that one thinks of the batch.
        self._is_first_pass = (
            self._path == "numpy"
            and settings.epochs == settings.minibatches == 1
            and not (self._algorithm.scales_by_ess or self._algorithm.needs_reference)
        )

    def update(self, batch: Batch, *, seed: int, replayed: int = 0) -> UpdateReport:
        """Train once on a batch of new episodes, followed by ``replayed`` ones.

        Args:
            batch: at least one step of a new episode.
            replayed: so many of its last episodes were learned from before: they train the networks and move
                the value scale that those are trained in, and are counted nowhere.
            seed: of the shuffling and of fresh weights; beside it, the result depends on the state, the
                batch, the number of threads and the machine only.

        Raises:
            ValueError: the batch does not fit the policy, or the algorithm learns from new episodes only;
                nothing has changed.
            UpdateDiverged: something became non-finite; this learner is spoiled and has to be thrown away.
        """
        began = self._clock()
        if replayed and not self._algorithm.reuses_episodes:
            raise ValueError(f"{replayed} replayed episodes; accepted: none with this algorithm")
        start = self._preparation.prepare(batch, evaluate_policy=not self._is_first_pass)
        rate = self._learning_rate(batch.n_episodes)
        kept = kept_episodes(batch, start.trust)
        policy_rate = None if start.trust.factor is None else self._learning_rate(kept) * start.trust.factor
        value_rate = self._settings.learning_rate if self._settings.lr_scaling == "sum" else rate
        epochs = create_passes(
            self._state,
            self._settings,
            self._algorithm,
            self._remedies,
            spec=self._base.spec,
            path=self._path,
            policy_rate=policy_rate,
            value_rate=value_rate if self._algorithm.trains_value else None,
        )
        means = epochs.run(start.rows, orders(self._settings, seed=seed, n=batch.n_steps))
        ratios = start.ratios
        if ratios is None:
            ratios = ratios_of(batch, start.rows.start_logp.numpy(), entropy=means["entropy_end"])
        self._remedies.perturb(epochs.trained, seed=seed)
        new = batch.n_episodes - replayed
        self._count(batch, new)
        return UpdateReport(
            **means,
            loss=means["policy_loss"] + means["value_loss"],
            entropy=ratios.entropy,
            ess_fraction=ratios.ess_fraction,
            ratio_max=ratios.ratio_max,
            learning_rate=rate,
            policy_episodes=0 if policy_rate is None else kept,
            policy_steps=epochs.policy_steps,
            value_steps=epochs.value_steps,
            n_steps=batch.n_steps,
            n_episodes=batch.n_episodes,
            unlogged_steps=ratios.unlogged_steps,
            return_mean=float(batch.total_reward[:new].mean()),
            seconds=self._clock() - began,
            noise=epochs.noise,
        )

    def delta(self) -> Delta:
        """Everything since the checkpoint, in its statistics of the observations.

        Where it has none, in those that were observed since: the successor will have them.
        """
        delta, base = self._state.delta(with_observed=self._updates_statistics), self._base
        if base.normalizer.count or delta.observed is None or not base.spec.normalize:
            return delta
        return change_in(base, delta, old=self._preparation.statistics, new=delta.observed)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Copy the weights as they are now, by name."""
        return self._state.weights()

    def log_probs(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probability of each action of ``batch`` [N] under the policy as it is now."""
        return self._preparation.log_probs(batch)

    def _learning_rate(self, episodes: int) -> float:
        return scaled_learning_rate(
            self._settings.lr_scaling,
            learning_rate=self._settings.learning_rate,
            episodes=episodes,
            reference_episodes=self._settings.reference_batch_episodes,
        )

    def _count(self, batch: Batch, new: int) -> None:
        """Count the first ``new`` episodes; the others were counted when they were new."""
        state = self._state
        n_steps = int(batch.offsets[new])
        state.added["updates"] += 1
        state.added["steps"] += n_steps
        if self._updates_statistics:
            rows = real_numbers(self._base.spec, batch.obs[:n_steps])
            state.observed = state.observed + RunningStatistics.of(rows)


def kept_episodes(batch: Batch, trust: Trust) -> int:
    """How many episodes of ``batch`` have steps that the policy learns from."""
    if trust.kept is None:
        return batch.n_episodes
    return int(np.logical_or.reduceat(trust.kept, batch.offsets[:-1]).sum())
