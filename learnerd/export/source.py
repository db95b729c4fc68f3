"""Source: what is exported, and what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.checkpoint import Arrays
from policies.manifest import MODEL, read_actor
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a version acts with; the value network and the optimizer stay behind.

    Attributes:
        version: its number.
        model_sha256: of its ``model.safetensors``; clients may write it as ``policy_digest``.
        spec: shapes and spaces.
        weights: float32, named as ``spec.actor_shapes()``.
        normalizer: observation statistics, float64.
    """

    version: int
    model_sha256: str
    spec: PolicySpec
    weights: Arrays
    normalizer: RunningStatistics

    def facts(self) -> dict[str, Any]:
        """What every export says about itself."""
        return {
            "learnerd_schema": SCHEMA,
            "version": self.version,
            "model_sha256": self.model_sha256,
            "spec": self.spec.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that is not written yet.

    Attributes:
        data: its bytes.
        facts: about it, as JSON values: shapes, opset, measured differences.
        loss: what it lacks of what was published; "": nothing.
    """

    data: bytes
    facts: Mapping[str, Any] = field(default_factory=dict)
    loss: str = ""

    def told(self) -> dict[str, Any]:
        """What is said of it."""
        return {"loss": self.loss, **self.facts}


def read_source(state: Path, version: int) -> Source:
    """Read a version with every hash checked; raises as ``policies.manifest.read_actor``."""
    spec, weights, normalizer, manifest = read_actor(state, version)
    return Source(
        version=version,
        model_sha256=manifest["files"][MODEL]["sha256"],
        spec=spec,
        weights={name: weights[name] for name in spec.actor_shapes()},
        normalizer=normalizer,
    )
