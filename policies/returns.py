"""Returns and advantages of episodes laid end to end (numpy, float64).

Every function takes the episodes as a flat stream: step t of episode e is row offsets[e] + t, and
``bootstrap_e`` is the value of the observation after the last step, 0 where the episode terminated.
"""

import functools

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Offsets = NDArray[np.int64]

BLOCK_STEPS = 64  # one block is one row of a matrix product; measured fastest between 32 and 128


def discounted_returns(
    reward_n: Float64, offsets: Offsets, *, gamma: float, bootstrap_e: Float64 | None = None
) -> Float64:
    """G_t = r_t + γ G_{t+1}, with G after the last step = bootstrap (0 when left out)."""
    _check(reward_n, offsets, bootstrap_e)
    return discounted_sums(_with_bootstrap(reward_n, offsets, gamma, bootstrap_e), offsets, decay=gamma)


def gae(
    reward_n: Float64,
    value_n: Float64,
    offsets: Offsets,
    *,
    bootstrap_e: Float64,
    gamma: float,
    gae_lambda: float,
) -> Float64:
    """Return A_t = Σ_k (γλ)^k δ_{t+k}, with δ_t = r_t + γ V_{t+1} - V_t (Schulman et al. 2016, eq. 16)."""
    _check(reward_n, offsets, bootstrap_e)
    delta = reward_n + gamma * next_values(value_n, offsets, bootstrap_e=bootstrap_e) - value_n
    return discounted_sums(delta, offsets, decay=gamma * gae_lambda)


def vtrace(
    reward_n: Float64,
    value_n: Float64,
    ratio_n: Float64,
    offsets: Offsets,
    *,
    bootstrap_e: Float64,
    gamma: float,
    trace_lambda: float = 1.0,
    rho_cap: float = 1.0,
    trace_cap: float = 1.0,
) -> tuple[Float64, Float64]:
    """V-trace targets and policy advantages (Espeholt et al. 2018, eq. 1).

    v_t = V_t + δ_t + γ c_t (v_{t+1} - V_{t+1}) with δ_t = ρ_t (r_t + γ V_{t+1} - V_t),
    ρ = min(rho_cap, ratio), c = λ min(trace_cap, ratio). The advantage is ρ_t (r_t + γ v_{t+1} - V_t).

    Returns:
        (targets [N], advantages [N]).
    """
    _check(reward_n, offsets, bootstrap_e)
    rho = np.minimum(rho_cap, ratio_n)
    trace = gamma * trace_lambda * np.minimum(trace_cap, ratio_n)
    delta = rho * (reward_n + gamma * next_values(value_n, offsets, bootstrap_e=bootstrap_e) - value_n)
    target = value_n + _varying_sums(delta, trace, offsets)
    advantage = rho * (reward_n + gamma * next_values(target, offsets, bootstrap_e=bootstrap_e) - value_n)
    return target, advantage


def next_values(value_n: Float64, offsets: Offsets, *, bootstrap_e: Float64) -> Float64:
    """V of the observation after each step: the next row's, or the episode's bootstrap at its end."""
    following = np.empty_like(value_n)
    following[:-1] = value_n[1:]
    filled = np.diff(offsets) > 0
    following[offsets[1:][filled] - 1] = bootstrap_e[filled]
    return following


def discounted_sums(x_n: Float64, offsets: Offsets, *, decay: float) -> Float64:
    """y_t = x_t + decay · y_{t+1} within each episode, y = 0 after its end.

    One scan over the whole stream, minus what it carried over each boundary: y_t - decay^(end - t) · y_end.
    """
    if len(x_n) == 0:
        return x_n.copy()
    scanned = _scan(x_n, decay)
    at_end = np.append(scanned, 0.0)[offsets[1:]]
    steps = np.diff(offsets)
    to_end = np.repeat(offsets[1:], steps) - np.arange(len(x_n))
    scanned -= np.repeat(at_end, steps) * _powers(decay, int(steps.max()) + 1)[to_end]
    return scanned


def _scan(x_n: Float64, decay: float) -> Float64:
    """y_t = x_t + decay · y_{t+1} over the whole stream: in blocks, then the blocks' carries likewise."""
    if decay == 1.0:
        return np.ascontiguousarray(x_n[::-1].cumsum()[::-1])
    rows = -(-len(x_n) // BLOCK_STEPS)
    blocks = np.zeros((rows, BLOCK_STEPS))
    blocks.reshape(-1)[: len(x_n)] = x_n
    powers = _powers(decay, BLOCK_STEPS + 1)
    blocks = blocks @ _toeplitz(decay)
    if rows > 1:
        carry = _scan(blocks[:, 0].copy(), float(powers[-1]))[1:]
        blocks[:-1] += carry[:, None] * powers[:0:-1]
    return blocks.reshape(-1)[: len(x_n)]


def _powers(decay: float, count: int) -> Float64:
    return np.asarray(decay ** np.arange(count, dtype=np.float64), np.float64)


@functools.lru_cache(maxsize=32)
def _toeplitz(decay: float) -> Float64:
    """T[j, i] = decay^(j - i) for j >= i, else 0, so that (x @ T)_i = Σ_{j >= i} decay^(j - i) x_j."""
    lag = np.arange(BLOCK_STEPS)[:, None] - np.arange(BLOCK_STEPS)
    return np.where(lag >= 0, _powers(decay, BLOCK_STEPS)[np.abs(lag)], 0.0)


def _varying_sums(x_n: Float64, decay_n: Float64, offsets: Offsets) -> Float64:
    """y_t = x_t + decay_t · y_{t+1} within each episode: one pass back from all ends at once."""
    result = np.empty_like(x_n)
    order = np.argsort(-np.diff(offsets), kind="stable")
    steps, ends = np.diff(offsets)[order], offsets[1:][order]
    carry = np.zeros(len(steps))
    active = np.searchsorted(-steps, -np.arange(1, steps.max(initial=0) + 1), side="right")
    for back, count in enumerate(active, start=1):
        rows = ends[:count] - back
        carry[:count] = x_n[rows] + decay_n[rows] * carry[:count]
        result[rows] = carry[:count]
    return result


def _with_bootstrap(
    reward_n: Float64, offsets: Offsets, gamma: float, bootstrap_e: Float64 | None
) -> Float64:
    if bootstrap_e is None:
        return reward_n
    rewards = reward_n.copy()
    filled = np.diff(offsets) > 0
    rewards[offsets[1:][filled] - 1] += gamma * bootstrap_e[filled]
    return rewards


def _check(reward_n: Float64, offsets: Offsets, bootstrap_e: Float64 | None) -> None:
    if reward_n.ndim != 1 or reward_n.dtype != np.float64 or offsets[-1] != len(reward_n):
        raise ValueError(
            f"rewards have shape {reward_n.shape} of {reward_n.dtype}; offsets end at {offsets[-1]}"
        )
    if bootstrap_e is not None and len(bootstrap_e) != len(offsets) - 1:
        raise ValueError(f"{len(bootstrap_e)} bootstrap values for {len(offsets) - 1} episodes")
