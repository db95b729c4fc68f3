"""LearnerState (torch): what changes from step to step; read from a checkpoint, given back as a Delta."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from policies.checkpoint import Arrays, Average, Checkpoint, Delta
from policies.networks import Layout, Network, activation_of, encoding_of, network_layout
from policies.normalizer import RunningStatistics
from policies.optimizer import SGD, Adam
from policies.popart import ValueScale
from policies.proximal import ProximalAverage
from policies.settings import LearnerSettings


class LearnerState:
    """Networks, optimizers and moving averages since a base version; averages that it lacks start fresh.

    Attributes:
        action: the policy's action space.
        policy, value: the networks.
        policy_optimizer, value_optimizer: their optimizers.
        proximal: moving average of the policy's weights; None when the settings keep none.
        value_scale: PopArt statistics; None before the first batch.
        average_return: the "ema" baseline; None before the first batch.
        observed: observation statistics of this branch alone.
        added: what to add to the counters of the base.
    """

    def __init__(self, base: Checkpoint, settings: LearnerSettings, *, device: str) -> None:
        self._base = base
        self._settings = settings
        self._device = device
        self.action = base.spec.action
        self.policy = self._network("policy")
        self.value = self._network("value")
        self.policy_optimizer = self._optimizer(self.policy.layout, "adam_policy")
        self.value_optimizer = self._optimizer(self.value.layout, "adam_value")
        self.proximal = self._proximal() if settings.averages_proximal else None
        self.value_scale = _value_scale(base.averages)
        self.average_return = _scalar(base.averages, "baseline")
        self.observed = RunningStatistics.empty(base.spec.statistics)
        self.added = dict.fromkeys(("updates", "steps", "popart", "baseline"), 0)

    def weights(self) -> dict[str, np.ndarray]:
        """Copy the weights by name, float32, in the spec's order."""
        named = self.policy.layout.unpack(self.policy.flat) | self.value.layout.unpack(self.value.flat)
        return {name: named[name] for name in self._base.spec.shapes()}

    def delta(self, *, with_observed: bool) -> Delta:
        """Everything that changed since the base version."""
        changes = {
            name: array.astype(np.float64) - np.asarray(self._base.weights[name], np.float64)
            for name, array in self.weights().items()
        }
        return Delta(
            weights={name: change for name, change in changes.items() if change.any()},
            averages=self._averages(),
            observed=self.observed if with_observed else None,
            counters={name: count for name, count in self._counters().items() if count},
        )

    def _network(self, name: str) -> Network:
        layout = network_layout(self._base.spec, name)
        flat = layout.pack(self._base.weights, device=self._device)
        return Network(layout, flat, activation_of(self._base.spec), encoding_of(self._base.spec, name))

    def _optimizer(self, layout: Layout, counter: str) -> Adam | SGD:
        if self._settings.optimizer == "sgd":
            return SGD()
        m = self._packed(layout, "adam_m.")
        v = self._packed(layout, "adam_v.")
        fresh = m is None or v is None
        zeros = torch.zeros(layout.size, device=self._device)
        return Adam(
            zeros.clone() if m is None or fresh else m,
            zeros if v is None or fresh else v,
            steps=0 if fresh else self._base.counters.get(counter, 0),
            beta1=self._settings.adam_beta1,
            beta2=self._settings.adam_beta2,
            epsilon=self._settings.adam_epsilon,
        )

    def _proximal(self) -> ProximalAverage:
        flat = self._packed(self.policy.layout, "prox.")
        weight = _scalar(self._base.averages, "prox_weight")
        if flat is None or weight is None:
            flat, weight = self.policy.flat.clone(), 1.0
        return ProximalAverage(flat, weight=weight, decay=self._settings.proximal_decay)

    def _packed(self, layout: Layout, prefix: str) -> Tensor | None:
        if any(prefix + name not in self._base.averages for name in layout.shapes):
            return None
        return layout.pack(self._base.averages, prefix=prefix, device=self._device)

    def _averages(self) -> dict[str, Average]:
        averages: dict[str, Average] = {}
        for network, optimizer in (
            (self.policy, self.policy_optimizer),
            (self.value, self.value_optimizer),
        ):
            if isinstance(optimizer, Adam) and optimizer.taken:
                averages |= _adam_averages(network.layout, optimizer)
        if self.proximal is not None and self.proximal.taken:
            averages |= self._proximal_averages(self.proximal)
        return averages | self._scalar_averages()

    def _proximal_averages(self, proximal: ProximalAverage) -> dict[str, Average]:
        arrays = self.policy.layout.unpack(proximal.flat, prefix="prox.")
        averages = {name: Average(value=array, retained=proximal.retained) for name, array in arrays.items()}
        averages["prox_weight"] = _scalar_average(proximal.weight, proximal.decay**proximal.taken)
        return averages

    def _scalar_averages(self) -> dict[str, Average]:
        averages: dict[str, Average] = {}
        if self.value_scale is not None and self.added["popart"]:
            retained = self._retained("popart_mean", self._settings.popart_rate, self.added["popart"])
            averages["popart_mean"] = _scalar_average(self.value_scale.mean, retained)
            averages["popart_std"] = _scalar_average(self.value_scale.std, retained)
        if self.average_return is not None and self.added["baseline"]:
            retained = self._retained("baseline", self._settings.ema_rate, self.added["baseline"])
            averages["baseline"] = _scalar_average(self.average_return, retained)
        return averages

    def _retained(self, name: str, rate: float, updates: int) -> float:
        """How much of the base's value is left; an average that this branch began owes it nothing."""
        return (1.0 - rate) ** updates if name in self._base.averages else 0.0

    def _counters(self) -> dict[str, int]:
        counters = dict(self.added)
        for name, optimizer in (
            ("adam_policy", self.policy_optimizer),
            ("adam_value", self.value_optimizer),
        ):
            if isinstance(optimizer, Adam) and optimizer.taken:
                counters[name] = optimizer.steps - self._base.counters.get(name, 0)
        return counters


def _value_scale(averages: Arrays) -> ValueScale | None:
    mean, std = _scalar(averages, "popart_mean"), _scalar(averages, "popart_std")
    return None if mean is None or std is None else ValueScale(mean=mean, std=std)


def _scalar(averages: Arrays, name: str) -> float | None:
    return float(averages[name]) if name in averages else None


def _scalar_average(value: float, retained: float) -> Average:
    return Average(value=np.array(value, np.float64), retained=retained)


def _adam_averages(layout: Layout, optimizer: Adam) -> Mapping[str, Average]:
    retained_m, retained_v = optimizer.retained()
    m = layout.unpack(optimizer.m, prefix="adam_m.")
    v = layout.unpack(optimizer.v, prefix="adam_v.")
    return {name: Average(value=array, retained=retained_m) for name, array in m.items()} | {
        name: Average(value=array, retained=retained_v) for name, array in v.items()
    }
