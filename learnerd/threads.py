"""Threads: how many the arithmetic may use, decided before NumPy and torch are loaded.

Two torch threads on two cores made a small update 130 times slower: a barrier spins while a neighbor runs.
"""

import os
from collections.abc import MutableMapping

from learnerd.config import Config

WIDE = 512
"""Below this layer width one thread is fastest."""

MOST = 8
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_count(config: Config, *, cores: int | None = None) -> int:
    """``[learner] threads``, or from the widest hidden layer when it is "auto"."""
    if config.learner.threads != "auto":
        return config.learner.threads
    available = cores or len(os.sched_getaffinity(0))
    return min(MOST, available) if max(config.policy.hidden) >= WIDE else 1


def pin_threads(
    config: Config, env: MutableMapping[str, str] = os.environ, *, recorded: int | None = None
) -> int:
    """Set what OpenMP and BLAS read when they are loaded; what the user set stays. Returns the count.

    Args:
        config: ``[learner] threads``.
        env: the environment.
        recorded: a count that comes before the configuration's, to compute what was computed with it.
    """
    count = recorded or thread_count(config)
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for variable in VARIABLES:
        env.setdefault(variable, str(count))
    return count
