"""From arrays as clients write them to the canonical dtypes and shapes of an Episode."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.choices import choices_problem, mask_problem
from experience.errors import reject
from experience.magnitude import is_finite
from experience.space_parsing import action_space_of_rows, counts_from_zero

Array = NDArray[Any]

_BYTES, _FLOAT32, _FLOAT64 = np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64)
_INT64, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)


def to_obs(array: Array, shape: tuple[int, ...] | None) -> Array:
    """Return [rows, *shape] float32, or uint8 as it came; flat rows take the declared ``shape``."""
    _check_numeric("obs", array)
    result = _native(array, _BYTES) if array.dtype == _BYTES else _to_float32("obs", array)
    if shape is not None and result.shape[1:] != shape:
        if np.prod(result.shape[1:], dtype=object) != np.prod(shape, dtype=object):
            found = f"rows of shape {list(result.shape[1:])}"
            raise reject("bad_shape", "obs", found, f"observation_shape {list(shape)}, as declared")
        result = result.reshape(len(result), *shape)
    return result


def to_action(array: Array, space: Mapping[str, Any] | None) -> Array:
    """Return [T] int64 for integers or booleans, [T, A] float32 for floating numbers.

    A declared space decides where the numbers alone do not: text formats write 1.0 as 1. Several choices at
    once, [T, F] int64, have to be declared.
    """
    _check_numeric("action", array)
    kind = space["kind"] if space else ("continuous" if array.dtype.kind == "f" else "discrete")
    if kind == "discrete":
        return _to_discrete(array, space)
    if kind != "continuous":
        assert space is not None
        return _to_choices(array, space)
    result = _to_float32("action", array)
    result = result.reshape(-1, 1) if result.ndim == 1 else result
    if result.ndim > 2 or (space and result.shape[1] != space["shape"][0]):  # noqa: PLR2004 - two axes
        accepted = f"[T, {space['shape'][0]}], as declared" if space else "[T] or [T, A] for floating actions"
        raise reject("bad_shape", "action", f"shape {list(array.shape)}", accepted)
    return result


def _to_choices(array: Array, space: Mapping[str, Any]) -> Array:
    choices = action_space_of_rows(space)
    result = _to_int64("action", array)
    result = result.reshape(-1, 1) if result.ndim == 1 else result
    found = choices_problem(choices, result)
    if found is not None:
        raise reject("bad_value", "action", found, f"[T, {len(choices.factors)}] integers of {choices}")
    return result


def _to_discrete(array: Array, space: Mapping[str, Any] | None) -> Array:
    accepted = (
        "[T] integers for discrete actions; else [T, A] floats, or a declared action_space: continuous, "
        "multi_discrete or multi_binary"
    )
    result = _to_int64("action", _to_vector("action", array, accepted))
    if space and space.get("start") and not counts_from_zero(space):
        result = result - space["start"]
        if (result < 0).any():
            lowest = int(result.min()) + space["start"]
            raise reject("bad_value", "action", lowest, f"integers from start = {space['start']} on")
    if space and (result >= space["n"]).any():
        raise reject(
            "bad_value", "action", int(result.max()), f"integers below n = {space['n']}, as declared"
        )
    return result


def to_reward(array: Array) -> Array:
    """Return [T] float64."""
    _check_numeric("reward", array)
    return _native(_to_vector("reward", array, "shape [T]"), _FLOAT64)


def to_logp(array: Array) -> Array:
    """Return [T] float64; vectors of one log-probability a dimension are refused."""
    _check_numeric("logp", array)
    return _native(_to_vector("logp", array, "shape [T]: one log-probability for the whole action"), _FLOAT64)


def to_mask(array: Array) -> Array:
    """Return [T, N] bool, True where an action was allowed."""
    _check_numeric("mask", array)
    if array.ndim != 2:  # noqa: PLR2004 - two axes
        raise reject("bad_shape", "mask", f"shape {list(array.shape)}", "shape [T, N], one entry an action")
    numbers = array.view(np.uint8) if array.dtype.kind == "b" else array  # a byte may be more than a bool's 1
    valid = numbers.max() <= 1 if numbers.dtype == np.uint8 else bool(np.isin(numbers, (0, 1)).all())
    if not valid:
        found = f"{numbers.min()} to {numbers.max()}"
        raise reject("bad_value", "mask", found, "true (or 1) where allowed, else false (or 0)")
    return _native(array, _BOOL)


def to_policy_version_step(array: Array) -> Array:
    """Return [T] int64; 0 where none of ours acted."""
    _check_numeric("policy_version_step", array)
    result = _to_int64("policy_version_step", _to_vector("policy_version_step", array, "shape [T]"))
    if (result < 0).any():
        raise reject("bad_value", "policy_version_step", int(result.min()), "integers >= 0")
    return result


def check_mask(mask: Array | None, action: Array, space: Mapping[str, Any] | None = None) -> None:
    """Refuse a mask that forbids an action that was taken; its probability would be zero."""
    if mask is None or len(mask) != len(action):
        return
    if action.dtype.kind == "i" and action.ndim > 1:
        assert space is not None
        _check_choices_mask(mask, action, space)
        return
    if action.dtype.kind != "i":
        raise reject("bad_value", "mask", "given with floating actions", "a mask only with integer actions")
    if (action >= mask.shape[1]).any():
        raise reject(
            "bad_shape", "mask", f"{mask.shape[1]} entries a step", f"more than action {action.max()}"
        )
    if (action < 0).any():
        return  # Episode names it
    forbidden = np.flatnonzero(~mask[np.arange(len(action)), action])
    if forbidden.size:
        step = int(forbidden[0])
        accepted = "true for the action that was taken"
        raise reject("bad_value", f"mask[{step}]", f"false for action {action[step]}", accepted)


def _check_choices_mask(mask: Array, action: Array, space: Mapping[str, Any]) -> None:
    problem = mask_problem(action_space_of_rows(space), mask, action)
    if problem is not None:
        where, what = problem
        raise reject("bad_value", where, what, "one entry a logit, true for what was taken")


def last_flag(name: str, array: Array) -> bool:
    """A scalar, or one flag a step of which only the last may be true."""
    if (
        array.dtype.kind not in "biuf"
        or array.size == 0
        or array.ndim > 1
        or not np.isin(array, (0, 1)).all()
    ):
        found = f"dtype {array.dtype}, shape {list(array.shape)}"
        raise reject("bad_value", name, found, "true or false, once or one a step")
    flags = array.reshape(-1)
    early = np.flatnonzero(flags[:-1])
    if early.size:
        found = f"true before the last of {len(flags)} steps"
        raise reject("bad_value", f"{name}[{early[0]}]", found, "one episode")
    return bool(flags[-1])


TO_CANONICAL: Mapping[str, Callable[[Array], Array]] = {
    "reward": to_reward,
    "logp": to_logp,
    "mask": to_mask,
    "policy_version_step": to_policy_version_step,
}
"""Step fields that need nothing but the array; ``obs`` and ``action`` may be declared in the header."""


def _check_numeric(field: str, array: Array) -> None:
    kind = array.dtype.kind
    if kind == "O":
        raise reject("bad_dtype", field, "objects (null, text or mixed)", "numbers")
    if kind not in "biuf":
        raise reject("bad_dtype", field, f"dtype {array.dtype}", "integers, booleans or floating numbers")
    if array.ndim == 0:
        raise reject("bad_shape", field, "a single number", "one entry a step")
    if array.size == 0:
        raise reject(
            "bad_shape", field, f"shape {list(array.shape)}, empty", "at least one step and one number"
        )


def _to_vector(field: str, array: Array, accepted: str) -> Array:
    if array.ndim == 2 and array.shape[1] == 1:  # noqa: PLR2004 - two axes
        return array[:, 0]
    if array.ndim != 1:
        raise reject("bad_shape", field, f"shape {list(array.shape)}", accepted)
    return array


def _to_int64(field: str, array: Array) -> Array:
    if array.dtype.kind == "f":
        numbers = _native(array, _FLOAT64)
        whole = (np.abs(numbers) < 2.0**53) & (numbers == np.floor(numbers))
        if not whole.all():
            reason = "bad_dtype" if np.isfinite(array).all() else "not_finite"
            raise reject(reason, field, str(array[~whole][0]), "integers")
    elif array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise reject("bad_value", field, int(array.max()), "integers that fit int64")
    return _native(array, _INT64)


def _to_float32(field: str, array: Array) -> Array:
    result = _native(array, _FLOAT32)
    if array.dtype != _FLOAT32 and not is_finite(result):  # what was float32 before, Episode looks at
        bad = ~np.isfinite(result)
        step = int(np.argwhere(bad)[0][0])
        raise reject("not_finite", f"{field}[{step}]", str(array[bad][0]), "finite numbers that fit float32")
    return result


def _native(array: Array, dtype: np.dtype[Any]) -> Array:
    """Native byte order, C order, aligned; the file's own bytes where they are that already."""
    if array.dtype == dtype:  # which is native
        flags = array.flags
        if flags.c_contiguous and flags.aligned:
            return array
    return np.array(array, dtype, order="C")
