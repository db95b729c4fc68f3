"""Trust: which steps of a stale batch may move the policy, and by how much (numpy)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.weighting import effective_sample_fraction

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a batch says about the policy.

    Attributes:
        factor: what the policy's step is multiplied with; None: no policy step, only the value learns.
        kept: [N] bool, the steps that the policy learns from; None: all of them.
    """

    factor: float | None
    kept: NDArray[np.bool_] | None = None


ALL = Trust(factor=1.0)
NOTHING = Trust(factor=None)


def trust_by_ess(
    log_ratio_n: Float64, logged_n: NDArray[np.bool_], version_n: NDArray[np.int64], *, minimum: float
) -> Trust:
    """Judge a batch by the effective sample size of its importance ratios.

    - At least ``minimum`` of its steps: all are learned from, and the share is the factor.
    - Less: the batch is split by the version that acted. The newest versions are kept, as many as have
      ``minimum`` together. Choosing by version, not by ratio, leaves the expected gradient alone.
    - Less even for the newest one: nothing.

    Steps without a behavior log-probability have no ratio; they go with what is kept.

    Args:
        log_ratio_n: [N] log π - log μ; anything where not logged.
        logged_n: [N] whether there is a log μ.
        version_n: [N] the version that acted, 0 for unknown: counted as the oldest.
        minimum: share of the steps, 0 … 1.
    """
    whole = effective_sample_fraction(log_ratio_n[logged_n])
    if whole >= minimum:
        return Trust(factor=whole)
    best = NOTHING
    for version in np.unique(version_n[logged_n])[:0:-1]:
        newest = logged_n & (version_n >= version)
        fraction = effective_sample_fraction(log_ratio_n[newest])
        if fraction >= minimum:
            best = Trust(factor=fraction, kept=newest | ~logged_n)
    return best
