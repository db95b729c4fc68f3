"""Recovered: log-probabilities that no client logged, from the versions that acted. Loads no torch."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from policies.behavior import ActingPolicy, log_probs

Behavior = Callable[[int], ActingPolicy | None]
"""Looks up the version that acted; None when it is gone."""


def recover_logp(batch: Batch, behavior: Behavior) -> Batch:
    """Fill in log-probabilities that the client did not log, from the version that acted, if it is there."""
    missing = np.isnan(batch.logp) & (batch.policy_version > 0)
    if not missing.any():
        return batch
    logp: NDArray[np.float64] = batch.logp.copy()
    for version in np.unique(batch.policy_version[missing]):
        acted = behavior(int(version))
        rows = missing & (batch.policy_version == version)
        if acted is not None:
            mask = None if batch.mask is None else batch.mask[rows]
            logp[rows] = log_probs(acted, batch.obs[rows], batch.action[rows], mask)
    return replace(batch, logp=logp)


def logp_sources(logged: Batch, recovered: Batch, *, n_new: int) -> dict[str, int]:
    """Count episodes by where their log-probabilities come from, as counters; the worst step decides.

    Args:
        logged: a batch as the clients logged it.
        recovered: the same with what could be computed from the versions that acted.
        n_new: only so many episodes, the first ones, are counted.
    """
    starts = logged.offsets[:-1]
    lacking = np.logical_or.reduceat(np.isnan(logged.logp), starts)[:n_new]
    missing = np.logical_or.reduceat(np.isnan(recovered.logp), starts)[:n_new]
    counts = {
        "logp_logged": int((~lacking).sum()),
        "logp_recovered": int((lacking & ~missing).sum()),
        "logp_missing": int(missing.sum()),
    }
    return {name: count for name, count in counts.items() if count}
