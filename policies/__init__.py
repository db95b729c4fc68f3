"""Policies: how they act, learn and are stored. Importing this package loads neither torch nor pyarrow."""

from policies.actor import Actor
from policies.errors import NoPolicyYet
from policies.spec import ContinuousSpace, DiscreteSpace, MultiBinarySpace, MultiDiscreteSpace, PolicySpec
from policies.store import CheckpointStore

__all__ = [
    "Actor",
    "CheckpointStore",
    "ContinuousSpace",
    "DiscreteSpace",
    "MultiBinarySpace",
    "MultiDiscreteSpace",
    "NoPolicyYet",
    "PolicySpec",
]
