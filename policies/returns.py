"""Returns and advantages of episodes laid end to end (numpy, float64).

Every function takes the episodes as a flat stream: step t of episode e is row offsets[e] + t, and
``bootstrap_e`` is the value of the observation after the last step, 0 where the episode terminated.

All of them are one recurrence, y_t = x_t + c_t y_{t+1}, from the last step of an episode to its first. With
P_t = c_0 c_1 … c_{t-1} it becomes a sum from the end (Blelloch 1990, "Prefix sums and their applications"):

    P_t y_t = P_t x_t + P_{t+1} y_{t+1},   so   y_t = (Σ_{k≥t} P_k x_k) / P_t

which is a multiplication, a cumulative sum and a division, however many episodes there are: where one ends,
the sum of the next one is taken off first. What is added up shrinks with P, so that a rounding is forgotten
as fast as the recurrence forgets what was rounded. Only the range of P has a limit, therefore the stream is
cut into pieces.
"""

import functools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Offsets = NDArray[np.int64]

PIECE_STEPS = 16_384
"""At most so many steps are added up at once: their products stay in the second-level cache."""
VARYING_STEPS = 2048
"""The same where c differs from step to step, so that P may soon leave its range."""
RANGE = 1e250
"""P may move away from 1 by this factor, which leaves room for what it is multiplied with."""
FEW_STEPS = 16
"""A piece of so many steps whose P leaves its range is done by a loop; longer ones are halved."""
GROUP_STEPS = 16_384
"""Episodes of so many steps are worked on together where many arrays are needed: all stay in the cache."""


def discounted_returns(
    reward_n: Float64, offsets: Offsets, *, gamma: float, bootstrap_e: Float64 | None = None
) -> Float64:
    """G_t = r_t + γ G_{t+1}, with G after the last step = bootstrap (0 when left out)."""
    _check(reward_n, offsets, bootstrap_e)
    filled, last = _last_steps(offsets)
    result = reward_n.copy()
    if bootstrap_e is not None:
        result[last] += gamma * bootstrap_e[filled]
    return _sum_up(result, last, gamma)


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
    filled, last = _last_steps(offsets)
    delta = _following(value_n, last, bootstrap_e[filled], gamma)
    delta += reward_n  # in place: memory for large arrays costs more than the arithmetic
    delta -= value_n
    return _sum_up(delta, last, gamma * gae_lambda)


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
    target, advantage = np.empty_like(reward_n), np.empty_like(reward_n)
    for begin, end in _groups(offsets):
        rows = slice(offsets[begin], offsets[end])
        filled, last = _last_steps(offsets[begin : end + 1] - offsets[begin])
        after = bootstrap_e[begin:end][filled]
        rho, value = np.minimum(ratio_n[rows], rho_cap), value_n[rows]
        gain = reward_n[rows] - value
        trace = np.minimum(ratio_n[rows], trace_cap)
        trace *= gamma * trace_lambda
        corrected = target[rows]
        corrected[:] = _td_errors(rho, gain, _following(value, last, after, gamma))
        _sum_up_varying(corrected, last, trace)
        corrected += value
        advantage[rows] = _td_errors(rho, gain, _following(corrected, last, after, gamma))
    return target, advantage


def _td_errors(rho_n: Float64, gain_n: Float64, following_n: Float64) -> Float64:
    """ρ_t (r_t - V_t + γ w_{t+1}), with ``gain_n`` r - V and ``following_n`` γ w, which is overwritten."""
    following_n += gain_n
    following_n *= rho_n
    return following_n


def _groups(offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Cut the episodes into groups of about GROUP_STEPS; (first, one past the last) of each."""
    begin, count = 0, len(offsets) - 1
    if offsets[-1] <= GROUP_STEPS:
        yield begin, count
        return
    while begin < count:
        fitting = int(np.searchsorted(offsets, offsets[begin] + GROUP_STEPS, side="right")) - 1
        end = max(begin + 1, fitting)
        yield begin, end
        begin = end


def next_values(value_n: Float64, offsets: Offsets, *, bootstrap_e: Float64) -> Float64:
    """V of the observation after each step: the next row's, or the episode's bootstrap at its end."""
    filled, last = _last_steps(offsets)
    return _following(value_n, last, bootstrap_e[filled], 1.0)


def discounted_sums(x_n: Float64, offsets: Offsets, *, decay: float) -> Float64:
    """y_t = x_t + decay · y_{t+1} within each episode, y = 0 after its end."""
    return _sum_up(x_n.copy(), _last_steps(offsets)[1], decay)


def _last_steps(offsets: Offsets) -> tuple[slice | NDArray[np.bool_], Offsets]:
    """Which episodes have steps (an index), and the row of the last step of each of these."""
    last = offsets[1:] - 1
    filled = last >= offsets[:-1]
    return (slice(None), last) if np.count_nonzero(filled) == len(last) else (filled, last[filled])


def _following(value_n: Float64, last: Offsets, after: Float64, gamma: float) -> Float64:
    """γ times the next row of each, γ ``after`` for the last step of an episode."""
    following = np.empty_like(value_n)
    np.multiply(value_n[1:], gamma, out=following[:-1])
    following[last] = gamma * after
    return following


def _sum_up(x_n: Float64, last: Offsets, decay: float) -> Float64:
    """y_t = x_t + c y_{t+1} within each episode, in place; ``last`` has the row of each one's last step."""
    if decay == 0.0:
        return x_n
    product, inverse = _powers(decay)
    carry = 0.0
    for start, stop, ends in _pieces(len(x_n), len(product), last):
        piece = x_n[start:stop]
        _add_up(piece, ends, product[: len(piece)], decay * carry)
        piece *= inverse[: len(piece)]
        carry = piece[0]
    return x_n


def _sum_up_varying(x_n: Float64, last: Offsets, decay_n: Float64) -> None:
    """The same with a c for each step; those of the last steps do not count and are overwritten."""
    decay_n[last] = 1.0
    carry = 0.0
    for start, stop, ends in _pieces(len(x_n), VARYING_STEPS, last):
        _sum_piece(x_n[start:stop], ends, decay_n[start:stop], carry)
        carry = x_n[start]


def _sum_piece(x_n: Float64, last: Offsets, decay_n: Float64, carry: float) -> None:
    """One piece, in halves where P leaves its range; ``carry`` is y after it."""
    n = len(x_n)
    product = np.empty(n)
    product[0] = 1.0
    np.multiply.accumulate(decay_n[:-1], out=product[1:])
    if np.minimum.reduce(product) > 1.0 / RANGE and np.maximum.reduce(product) < RANGE:
        _add_up(x_n, last, product, decay_n[-1] * carry)
        x_n /= product
    elif n > FEW_STEPS:
        half, split = n // 2, np.searchsorted(last, n // 2)
        _sum_piece(x_n[half:], last[split:] - half, decay_n[half:], carry)
        _sum_piece(x_n[:half], last[:split], decay_n[:half], x_n[half])
    else:
        ends = last.tolist()
        for t in range(n - 1, -1, -1):
            x_n[t] += 0.0 if t in ends else decay_n[t] * carry
            carry = x_n[t]


def _pieces(n: int, steps: int, last: Offsets) -> Iterator[tuple[int, int, Offsets]]:
    """Cut n rows from the end; (first row, one past the last, the last steps among them as seen from it)."""
    if 0 < n <= steps:
        yield 0, n, last
        return
    for stop in range(n, 0, -steps):
        start = max(0, stop - steps)
        first, end = np.searchsorted(last, (start, stop))
        yield start, stop, last[first:end] - start


def _add_up(x_n: Float64, last: Offsets, product_n: Float64, after: float) -> None:
    """Σ_{k≥t} P_k x_k within each episode, in place; ``after`` is c y of a last row that ends no episode."""
    if len(last) and last[-1] == len(x_n) - 1:
        last = last[:-1]
    else:
        x_n[-1] += after
    x_n *= product_n
    if len(last):
        x_n[last] -= np.add.reduceat(x_n, last + 1)  # so that the sum begins anew there
    backwards = x_n[::-1]
    np.add.accumulate(backwards, out=backwards)


@functools.lru_cache(maxsize=8)
def _powers(decay: float) -> tuple[Float64, Float64]:
    """(P, 1 / P) of a constant c, for as many steps as P stays in its range, at most PIECE_STEPS."""
    per_step = abs(math.log(decay))
    steps = PIECE_STEPS if per_step * PIECE_STEPS < math.log(RANGE) else int(math.log(RANGE) / per_step)
    product: Float64 = np.power(decay, np.arange(max(steps, 1)), dtype=np.float64)
    return product, 1.0 / product


def _check(reward_n: Float64, offsets: Offsets, bootstrap_e: Float64 | None) -> None:
    if reward_n.ndim != 1 or reward_n.dtype != np.float64 or offsets[-1] != len(reward_n):
        raise ValueError(
            f"rewards have shape {reward_n.shape} of {reward_n.dtype}; offsets end at {offsets[-1]}"
        )
    if bootstrap_e is not None and len(bootstrap_e) != len(offsets) - 1:
        raise ValueError(f"{len(bootstrap_e)} bootstrap values for {len(offsets) - 1} episodes")
