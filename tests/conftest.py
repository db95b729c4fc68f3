"""Fixtures that several folders of tests share."""

import os
import signal

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # started in the background by a shell: children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch or NumPy is loaded: spinning barriers on two shared cores make small updates crawl.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402 - the variables come first
import pytest  # noqa: E402

from experience.episode import Episode  # noqa: E402


@pytest.fixture
def make_episode():
    """Build a small valid episode; any field can be given."""

    def build(episode_id="e1", *, steps=3, width=4, n_actions=2, seed=0, **fields):
        rng = np.random.default_rng(seed)
        values = {
            "episode_id": episode_id,
            "client_id": "bot",
            "obs": rng.normal(size=(steps + 1, width)).astype(np.float32),
            "action": rng.integers(n_actions, size=steps),
            "reward": rng.normal(size=steps),
            "logp": np.full(steps, -np.log(n_actions)),
            "terminated": True,
            "truncated": False,
            "policy_version": 0,
            "ended_at": 1000.0,
        }
        return Episode(**{**values, **fields})

    return build
