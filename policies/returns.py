"""Returns and advantages of episodes laid end to end (numpy, float64).

Every function takes the episodes as a flat stream: step t of episode e is row offsets[e] + t, and
``bootstrap_e`` is the value of the observation after the last step, 0 where the episode terminated.
"""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Offsets = NDArray[np.int64]

PIECE_STEPS = 32_768
"""Their arrays stay in the second-level cache; larger pieces took three times as long a step."""
BLOCK_STEPS = 8
"""Measured fastest, as longer blocks cost more calls and shorter ones more levels."""
FEW_BLOCKS = 24
"""Below, plain Python is quicker than numpy's cost per call."""


def discounted_returns(
    reward_n: Float64, offsets: Offsets, *, gamma: float, bootstrap_e: Float64 | None = None
) -> Float64:
    """G_t = r_t + γ G_{t+1}, with G after the last step = bootstrap (0 when left out)."""
    _check(reward_n, offsets, bootstrap_e)
    rewards = reward_n.copy()
    if bootstrap_e is not None:
        filled = np.diff(offsets) > 0
        rewards[offsets[1:][filled] - 1] += gamma * bootstrap_e[filled]
    return _sum_up(rewards, offsets, gamma)


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
    delta = next_values(value_n, offsets, bootstrap_e=bootstrap_e)
    delta *= gamma  # in place: memory for large arrays costs more than the arithmetic
    delta += reward_n
    delta -= value_n
    return _sum_up(delta, offsets, gamma * gae_lambda)


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
    trace = np.minimum(trace_cap, ratio_n)
    trace *= gamma * trace_lambda
    target = _td_errors(rho, reward_n, value_n, value_n, offsets, gamma=gamma, bootstrap_e=bootstrap_e)
    target = _sum_up(target, offsets, trace)
    target += value_n
    advantage = _td_errors(rho, reward_n, value_n, target, offsets, gamma=gamma, bootstrap_e=bootstrap_e)
    return target, advantage


def _td_errors(
    rho_n: Float64,
    reward_n: Float64,
    value_n: Float64,
    following_n: Float64,
    offsets: Offsets,
    *,
    gamma: float,
    bootstrap_e: Float64,
) -> Float64:
    """ρ_t (r_t + γ w_{t+1} - V_t), with w = ``following_n``."""
    errors = next_values(following_n, offsets, bootstrap_e=bootstrap_e)
    errors *= gamma
    errors += reward_n
    errors -= value_n
    errors *= rho_n
    return errors


def next_values(value_n: Float64, offsets: Offsets, *, bootstrap_e: Float64) -> Float64:
    """V of the observation after each step: the next row's, or the episode's bootstrap at its end."""
    following = np.empty_like(value_n)
    following[:-1] = value_n[1:]
    filled = np.diff(offsets) > 0
    following[offsets[1:][filled] - 1] = bootstrap_e[filled]
    return following


def discounted_sums(x_n: Float64, offsets: Offsets, *, decay: float) -> Float64:
    """y_t = x_t + decay · y_{t+1} within each episode, y = 0 after its end."""
    return _sum_up(x_n.copy(), offsets, decay)


def _sum_up(x_n: Float64, offsets: Offsets, decay: float | Float64) -> Float64:
    """y_t = x_t + decay_t · y_{t+1} within each episode, in place; ``decay`` is [N], or one for all steps.

    A decay of 0 after each last step keeps episodes apart, so that one scan over the whole stream does. It
    goes from the last piece to the first, as long arrays leave the cache.
    """
    carry, last_steps = 0.0, offsets[1:] - 1
    for end in range(len(x_n), 0, -PIECE_STEPS):
        start = max(0, end - PIECE_STEPS)
        piece = decay[start:end] if isinstance(decay, np.ndarray) else decay
        decay_n = np.array(np.broadcast_to(piece, end - start))
        first, last = np.searchsorted(last_steps, (start, end))
        decay_n[last_steps[first:last] - start] = 0.0
        x_n[start:end] = _scan_piece(x_n[start:end], decay_n, carry)
        carry = float(x_n[start])
    return x_n


def _scan_piece(x_n: Float64, decay_n: Float64, carry: float) -> Float64:
    """y_t = x_t + decay_t · y_{t+1}; ``carry`` is y after the last step.

    Steps are cut into short blocks, a block a column, so that a step back is one in all blocks at once. What
    each block takes over from the one after it is a scan too, over as many numbers as there are blocks.
    """
    blocks = len(x_n) // BLOCK_STEPS
    whole = blocks * BLOCK_STEPS
    if blocks < FEW_BLOCKS:
        return _scan_one_by_one(x_n, decay_n, carry)
    rest = _scan_one_by_one(x_n[whole:], decay_n[whole:], carry)
    carry = float(rest[0]) if len(rest) else carry
    y = np.array(x_n[:whole].reshape(blocks, BLOCK_STEPS).T, order="C")
    through = np.array(decay_n[:whole].reshape(blocks, BLOCK_STEPS).T, order="C")
    _step_back(list(y), list(through))
    starts = _scan_piece(y[0], through[0], carry)
    through *= np.append(starts[1:], carry)
    y += through
    return np.concatenate([y.T.reshape(-1), rest]) if len(rest) else y.T.reshape(-1)


def _step_back(y: list[Float64], through: list[Float64]) -> None:
    """In place, from the last step to the first: y += through · y_next, and ``through`` times that of it."""
    term = np.empty_like(y[0])
    for row in range(len(y) - 2, -1, -1):
        np.multiply(through[row], y[row + 1], term)
        np.add(y[row], term, y[row])
        np.multiply(through[row], through[row + 1], through[row])


def _scan_one_by_one(x_n: Float64, decay_n: Float64, carry: float) -> Float64:
    result = []
    for x, decay in zip(x_n[::-1].tolist(), decay_n[::-1].tolist(), strict=True):
        carry = x + decay * carry
        result.append(carry)
    return np.array(result[::-1], np.float64)


def _check(reward_n: Float64, offsets: Offsets, bootstrap_e: Float64 | None) -> None:
    if reward_n.ndim != 1 or reward_n.dtype != np.float64 or offsets[-1] != len(reward_n):
        raise ValueError(
            f"rewards have shape {reward_n.shape} of {reward_n.dtype}; offsets end at {offsets[-1]}"
        )
    if bootstrap_e is not None and len(bootstrap_e) != len(offsets) - 1:
        raise ValueError(f"{len(bootstrap_e)} bootstrap values for {len(offsets) - 1} episodes")
