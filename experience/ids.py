"""Ids that sort by the time at which they were made."""

import os
import threading
import time

_TICKS_PER_S = 4096_000
"""The 12 bits after the milliseconds hold their fraction (RFC 9562, section 6.2, method 3)."""

_lock = threading.Lock()
_last_ticks = 0


def uuid7(now_s: float | None = None) -> str:
    """Return a new UUID version 7 as text.

    Within a process they ascend strictly, so that claims sort in the order in which they were made, unless
    the clock is set back by more than a second: then they follow it, because ages are told from them. With
    ``now_s`` given they follow that time alone.

    Args:
        now_s: seconds since 1970; None reads the clock.
    """
    ticks = _next_ticks() if now_s is None else int(now_s * _TICKS_PER_S)
    milliseconds, fraction = divmod(ticks, 4096)
    random = int.from_bytes(os.urandom(8)) >> 2
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_alike(count: int) -> list[str]:
    """Return new ids that share all but their last digit, ascending.

    Args:
        count: at most 16.
    """
    shared = uuid7()[:-1]
    return [f"{shared}{digit:x}" for digit in range(count)]


def uuid7_time_s(text: str) -> float:
    """Return the time that a UUID version 7 holds, in seconds since 1970, to a quarter of a microsecond."""
    value = int(text.replace("-", ""), 16)
    return ((value >> 80) * 4096 + (value >> 64 & 0xFFF)) / _TICKS_PER_S


def _next_ticks() -> int:
    global _last_ticks  # noqa: PLW0603 - the order holds for the whole process
    with _lock:
        now = time.time_ns() * 4096 // 1_000_000
        _last_ticks = now if _last_ticks - now > _TICKS_PER_S else max(now, _last_ticks + 1)
        return _last_ticks
