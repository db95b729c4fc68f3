"""Epochs (torch): the passes over one prepared batch.

The host reads nothing back from a GPU until all of them are done, and then once: a read would make it wait,
and the GPU for it. Only on a CPU, where a read costs nothing, does it look whether the next epoch is wanted.
"""

import itertools
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.algorithms import Algorithm
from policies.early_stop import EarlyStop
from policies.errors import UpdateDiverged
from policies.learner_state import LearnerState
from policies.losses import value_loss
from policies.networks import Evaluation, Network, divergence, evaluate, log_std_of, set_gradient
from policies.noise_scale import GradientNoise, NoiseProbe
from policies.optimizer import clip_to_norm_
from policies.remedies import Remedies
from policies.rows import Rows
from policies.settings import LearnerSettings

CHUNK_ROWS = {"cpu": 1024, "cuda": 1 << 20}
"""Rows through a network at once. On a CPU, 1024 was fastest for 64 units: few calls, still in its cache."""

LOOKS_AFTER_EPOCHS = {"cpu": True, "cuda": False}
"""Whether the host ends the epochs itself, when the KL has passed its bound; else see ``EarlyStop``."""

ADVANTAGE_EPSILON = 1e-8


def permutations(seed: int, *, epochs: int, n: int) -> NDArray[np.int64]:
    """One order of n steps an epoch, [epochs, n], from ``seed`` alone."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(n) for _ in range(epochs)])


def orders(settings: LearnerSettings, *, seed: int, n: int) -> NDArray[np.int64]:
    """Return the order of n steps in each epoch, [epochs, n]; as they come where a minibatch is the batch."""
    if settings.minibatches == 1:
        return np.arange(n)[None].repeat(settings.epochs, axis=0)
    return permutations(seed, epochs=settings.epochs, n=n)


@dataclass(kw_only=True)
class Trace:
    """What an epoch's minibatches gave, still on the device: scalars, of a minibatch or a part of one."""

    policy_loss: list[Tensor] = field(default_factory=list)
    value_loss: list[Tensor] = field(default_factory=list)
    grad_norm: list[Tensor] = field(default_factory=list)
    value_grad_norm: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    entropy_end: list[Tensor] = field(default_factory=list)

    def means(self, minibatches: int) -> Tensor:
        """Sum of each list over the minibatches, 0 for an empty one: [6] on the device."""
        lists: list[list[Tensor]] = list(vars(self).values())
        some = next(entries[0] for entries in lists if entries)
        sums = [torch.stack(entries).sum() if entries else torch.zeros_like(some) for entries in lists]
        return torch.stack(sums) / minibatches


TRACED = [entry.name for entry in fields(Trace)]
OF_THE_LAST_EPOCH = ("kl", "entropy_end")


class Epochs:
    """Trains the networks of ``state`` on ``rows``.

    Args:
        state: changed in place.
        settings: the learning rule.
        algorithm: the policy's loss.
        remedies: what is done for plasticity.
        policy_rate: the policy's learning rate, with the effective sample size; None: no policy steps.
        value_rate: the value network's; None: no value steps.

    Attributes:
        trained: the networks that take steps.
        noise: of the policy's gradient in the first epoch, when the settings ask for it.
    """

    def __init__(
        self,
        state: LearnerState,
        settings: LearnerSettings,
        algorithm: Algorithm,
        remedies: Remedies,
        *,
        policy_rate: float | None,
        value_rate: float | None,
    ) -> None:
        self._state, self._settings, self._algorithm = state, settings, algorithm
        self._remedies = remedies
        self._policy_rate, self._value_rate = policy_rate, value_rate
        self.trained: list[Network] = [
            *([state.policy] if policy_rate is not None else []),
            *([state.value] if value_rate is not None else []),
        ]
        self._start_log_std = None if state.policy.log_std is None else state.policy.log_std.detach().clone()
        proximal = state.proximal
        self._proximal_leaves = None if proximal is None else state.policy.layout.views(proximal.flat)
        self._trace = Trace()
        self._traces_kl = False
        self._minibatches = 0
        self._probe = NoiseProbe() if settings.noise_scale and policy_rate is not None else None
        self._probes = True
        self._squares: tuple[Tensor, Tensor] | None = None
        self.noise: GradientNoise | None = None

    @property
    def policy_steps(self) -> int:
        """Optimizer steps of the policy so far."""
        return 0 if self._policy_rate is None else self._minibatches

    @property
    def value_steps(self) -> int:
        """Optimizer steps of the value network so far."""
        return 0 if self._value_rate is None else self._minibatches

    def run(self, rows: Rows, orders: NDArray[np.int64]) -> dict[str, float]:
        """Train once through ``orders`` [epochs, n]; return the means of the trace.

        Raises:
            UpdateDiverged: a loss, a gradient or a weight is not finite; the state is spoiled.
        """
        on_device = torch.from_numpy(np.array(orders)).to(rows.obs.device)
        stop = None
        if self._watches_kl(last=False) and not LOOKS_AFTER_EPOCHS[rows.obs.device.type]:
            stop = EarlyStop(self._state, self._settings.target_kl)
        epochs = self._epochs(rows, on_device, stop)
        if stop is not None:
            stop.restore()
        return self._read(epochs, stop, len(rows))

    def _epochs(self, rows: Rows, orders: Tensor, stop: EarlyStop | None) -> list[Tensor]:
        """Take every step; the means of the trace [6] in each epoch."""
        means: list[Tensor] = []
        for epoch, order in enumerate(orders):
            last = epoch == len(orders) - 1
            self._trace, self._traces_kl = Trace(), self._watches_kl(last=last)
            parts = self._parts(rows.take(order))
            for part in parts:
                self._minibatch(part)
            self._minibatches += len(parts)
            means.append(self._trace.means(len(parts)))
            if self._probe is not None:
                self._squares, self._probes = self._probe.squares(), False
            kl = means[-1][TRACED.index("kl")]
            if stop is not None:
                stop.after_epoch(kl)
            elif not last and self._traces_kl and float(kl) > self._settings.target_kl:
                break
        return means

    def _watches_kl(self, *, last: bool) -> bool:
        return self._policy_rate is not None and (self._settings.target_kl > 0 or last)

    def _read(self, epochs: list[Tensor], stop: EarlyStop | None, n_steps: int) -> dict[str, float]:
        """Read everything at once; the means over the epochs that count."""
        sums = [network.flat.sum() for network in self.trained]
        squares = [] if self._squares is None else list(self._squares)
        counted = [] if stop is None else [stop.epochs]
        everything = torch.cat([*epochs, torch.stack([*sums, *squares, *counted])]).tolist()
        table, numbers = np.split(np.array(everything), [len(epochs) * len(TRACED)])
        count = len(epochs)
        if stop is not None:
            count = int(numbers[-1])
            stop.restore_counters(count)
            self._minibatches = self._minibatches * count // len(epochs)
        if self._probe is not None and squares:
            self.noise = self._probe.estimate_from(numbers[len(sums) :].tolist(), n_steps)
        return self._means(table.reshape(-1, len(TRACED))[:count], numbers[: len(sums)])

    def _means(self, table: NDArray[np.float64], weight_sums: NDArray[np.float64]) -> dict[str, float]:
        means = dict(zip(TRACED, table.mean(axis=0).tolist(), strict=True))
        last = dict(zip(TRACED, table[-1].tolist(), strict=True))
        means |= {name: last[name] for name in OF_THE_LAST_EPOCH}
        check_finite({name.replace("_", " "): number for name, number in means.items()})
        names = ["policy" if network is self._state.policy else "value" for network in self.trained]
        sums = zip(names, weight_sums.tolist(), strict=True)
        check_finite({f"{name} weights": total for name, total in sums})
        return means

    def _parts(self, rows: Rows) -> list[Rows]:
        """Cut an epoch into its minibatches; empty ones are left out."""
        parts = self._settings.minibatches
        cuts = [len(rows) * i // parts for i in range(parts + 1)]
        return [rows.part(start, stop) for start, stop in itertools.pairwise(cuts) if stop > start]

    def _minibatch(self, rows: Rows) -> None:
        if self._settings.advantage_normalization == "minibatch":
            rows = replace(rows, advantage=normalized_unbiased(rows.advantage))
        for i, chunk in enumerate(rows.chunks(CHUNK_ROWS[rows.obs.device.type])):
            terms: list[Tensor] = []
            if self._policy_rate is not None:
                terms.append(self._policy_loss(chunk, len(rows)))
                self._trace.policy_loss.append(terms[-1].detach())
            if self._value_rate is not None:
                terms.append(self._value_loss(chunk, len(rows)))
                self._trace.value_loss.append(terms[-1].detach())
            set_gradient(terms, self.trained, accumulate=i > 0)
        self._step()

    def _policy_loss(self, rows: Rows, n: int) -> Tensor:
        """Policy loss of a chunk, over the n rows of its minibatch; summed over them with scaling "sum"."""
        policy, space = self._state.policy, self._state.action
        now = evaluate(policy(rows.obs), policy.log_std, rows.action, rows.mask, space)
        reference = self._reference(rows)
        if self._traces_kl:
            with torch.no_grad():
                self._trace.kl.append(divergence(reference, now).sum() / n)
                self._trace.entropy_end.append(now.entropy.mean() * (len(rows) / n))
        needed = reference.logp if self._algorithm.needs_reference else None
        loss = self._algorithm.policy_loss(rows, now, needed) - self._settings.entropy_bonus * now.entropy
        if rows.weight is not None:
            loss = loss * rows.weight
        return loss.sum() if self._settings.lr_scaling == "sum" else loss.sum() / n

    def _reference(self, rows: Rows) -> Evaluation:
        """Return the proximal policy: the moving average as it is now, or the policy at the start."""
        if self._proximal_leaves is None:
            assert rows.start_parameters is not None
            return Evaluation(
                logp=rows.start_logp,
                entropy=rows.start_logp,
                parameters=rows.start_parameters,
                log_std=self._start_log_std,
            )
        with torch.no_grad():
            policy = self._state.policy
            outputs = policy.outputs(self._proximal_leaves, rows.obs)
            log_std = log_std_of(policy.layers(self._proximal_leaves))
            return evaluate(outputs, log_std, rows.action, rows.mask, self._state.action)

    def _value_loss(self, rows: Rows, n: int) -> Tensor:
        output = self._state.value(rows.obs).squeeze(1)
        coefficient = self._settings.value_coefficient
        return value_loss(output, rows.target, coefficient=coefficient).sum() / n

    def _step(self) -> None:
        state = self._state
        if self._probe is not None and self._probes:
            self._probe.add(state.policy.gradient)
        self._remedies.pull(self.trained)
        self._clip()
        if self._policy_rate is not None:
            state.policy_optimizer.step(
                state.policy.flat, state.policy.gradient, learning_rate=self._policy_rate
            )
            if state.proximal is not None:
                state.proximal.follow(state.policy.flat)
        if self._value_rate is not None:
            state.value_optimizer.step(state.value.flat, state.value.gradient, learning_rate=self._value_rate)

    def _clip(self) -> None:
        settings, state, trace = self._settings, self._state, self._trace
        if settings.joint_clip:
            norm = clip_to_norm_([network.gradient for network in self.trained], settings.max_grad_norm)
            trace.grad_norm.append(norm)
            trace.value_grad_norm.append(norm)
            return
        if self._policy_rate is not None:
            trace.grad_norm.append(clip_to_norm_([state.policy.gradient], settings.max_grad_norm))
        if self._value_rate is not None:
            trace.value_grad_norm.append(clip_to_norm_([state.value.gradient], settings.value_max_grad_norm))


def normalized_unbiased(advantage_n: Tensor) -> Tensor:
    """(A - mean) / (std + 1e-8) with the unbiased deviation; a single one as it is."""
    if len(advantage_n) == 1:
        return advantage_n
    return (advantage_n - advantage_n.mean()) / (advantage_n.std() + ADVANTAGE_EPSILON)


def check_finite(quantities: dict[str, float]) -> None:
    """Raise UpdateDiverged for the first that is not finite."""
    for name, number in quantities.items():
        if not np.isfinite(number):
            raise UpdateDiverged(what=name, value=number)
