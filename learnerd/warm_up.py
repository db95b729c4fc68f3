"""Warm-up: what the first cycle would have to load and set up, done before READY."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from experience.batch import Batch
from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.settings import LearnerSettings
from policies.spec import DiscreteSpace, PolicySpec


def warm_up(settings: LearnerSettings, *, device: str) -> None:
    """Run one update on two made-up steps and throw it away: libraries set themselves up on first use."""
    pa.Table.from_pylist([{"loads": "pandas, where it is installed"}])
    spec = PolicySpec(observation_shape=(1,), action=DiscreteSpace(n=2))
    batch = Batch(
        obs=np.zeros((2, 1), np.float32),
        final_obs=np.zeros((1, 1), np.float32),
        action=np.array([0, 1]),
        reward=np.array([0.0, 1.0]),
        logp=np.full(2, -np.log(2.0)),
        mask=None,
        policy_version=np.zeros(2, np.int64),
        offsets=np.array([0, 2]),
        terminated=np.array([True]),
        total_reward=np.array([1.0]),
    )
    Learner(initial_checkpoint(spec, seed=0), settings, device=device).update(batch, seed=0)
