"""Put the parts of an episode together: header, arrays, outcome."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experience.codec.arrays import TO_CANONICAL, Array, check_mask, to_action, to_obs
from experience.codec.contract import Source
from experience.codec.parts import check_parts, has_parts, join_parts, space_of_parts, to_stored
from experience.episode import Episode
from experience.errors import reject
from experience.fields import accepted_names, header_values
from experience.space_parsing import action_space_of_rows, counts_from_zero, row_space_json, space_of_rows
from experience.spaces import BoxSpace, Space

REQUIRED = ("obs", "action", "reward")


def assemble(
    columns: Mapping[str, Array],
    *,
    header: Mapping[str, Any],
    terminated: bool,
    truncated: bool,
    incomplete: bool = False,
    final_obs: Array | None = None,
    source: Source,
    data: bytes,
    index: int = 0,
) -> Episode:
    """Build a checked Episode.

    Args:
        columns: step fields under canonical names, as the client wrote them; observations with parts as
            ``obs.<path>``, and ``final_obs.<path>``.
        header: header fields under canonical names.
        terminated: as the client said.
        truncated: as the client said.
        incomplete: the file held no end for it.
        final_obs: the observation after the last action, where it did not stand in ``obs``.
        source: where it came from.
        data: the file's bytes, for an id where the client gave none.
        index: position in the file.

    Raises:
        InputError: naming the field, its value and what would be accepted.
    """
    in_parts = "." in "".join(columns)
    if in_parts:
        check_parts(columns, final_obs)
    for name in REQUIRED:
        if name not in columns and not (in_parts and name == "obs"):
            raise reject("missing_field", name, "left out", accepted_names(name))
    values = header_values(header)
    values["incomplete"] = values.get("incomplete", False) or incomplete
    values.update(terminated=terminated, truncated=truncated)
    return build(columns, values, final_obs=final_obs, source=source, data=data, index=index)


def build(
    columns: Mapping[str, Array],
    values: dict[str, Any],
    *,
    final_obs: Array | None = None,
    source: Source,
    data: bytes,
    index: int = 0,
) -> Episode:
    """Do the same with a header that is converted: ``values`` are arguments of Episode, and get the rest."""
    if "episode_id" not in values:
        values["episode_id"] = source.episode_id(data, index)
    if "observation_space" in values or "." in "".join(columns):
        obs = _observations(columns, final_obs, values)
    else:
        obs = to_obs(columns["obs"], values.get("observation_shape"))
        if final_obs is not None:
            obs = _append(obs, final_obs, values.get("observation_shape"))
    steps = canonical_steps(columns, values)
    _check_bytes([obs, *steps.values()], source.limits.max_decoded_bytes)
    values.update(
        steps,
        obs=obs,
        ingested_at=source.ingested_at,
        source_sha256=source.sha256,
        source_name=source.name,
    )
    return Episode.of(values)


def canonical_steps(columns: Mapping[str, Array], values: dict[str, Any]) -> dict[str, Array]:
    """Convert all step fields but ``obs``, of one episode or of several that lie end to end.

    Args:
        columns: as for ``assemble``.
        values: header values; actions count from 0 from here on, and so does their declared space.

    Raises:
        InputError: naming the field, its value and what would be accepted.
    """
    space = values.get("action_space")
    action = to_action(columns["action"], space)
    if space is not None and "start" in space:
        values["action_space"] = row_space_json(action_space_of_rows(space))
    steps = {name: convert(columns[name]) for name, convert in TO_CANONICAL.items() if name in columns}
    check_mask(steps.get("mask"), action, space)
    return {"action": action, **steps}


def _observations(columns: Mapping[str, Array], final_obs: Array | None, values: dict[str, Any]) -> Array:
    """Observations of a declared space, or part by part; ``values`` gets the space as they are stored in."""
    declared = values.get("observation_space")
    given = space_of_parts(columns) if declared is None else space_of_rows(declared)
    space = given.canonical() if counts_from_zero(declared) else given
    shape = values.get("observation_shape", space.stored_shape)
    if shape != space.stored_shape:
        raise reject(
            "bad_value", "observation_shape", list(shape), f"{list(space.stored_shape)}, as in {space}"
        )
    values["observation_space"] = row_space_json(given)
    if not has_parts(columns):
        obs = _stored(columns["obs"], space)
        return (
            obs if final_obs is None else np.concatenate([obs, _stored(np.asarray(final_obs)[None], space)])
        )
    first = next(array for name, array in columns.items() if name.startswith("obs."))
    rows = len(first) if first.ndim else 0
    obs = join_parts(columns, "obs", space, (rows,))
    if any(name.startswith("final_obs.") for name in columns):
        obs = np.concatenate([obs, join_parts(columns, "final_obs", space, ())[None]])
    return obs.reshape(len(obs), *space.stored_shape)


def _stored(array: Array, space: Space) -> Array:
    return to_obs(array, space.shape) if isinstance(space, BoxSpace) else to_stored(array, space)


def _check_bytes(arrays: list[Array], limit: int) -> None:
    total = sum([array.nbytes for array in arrays])
    if total > limit:
        raise reject("too_large", "decoded size", f"{total} bytes", f"at most {limit} bytes")


def _append(obs: Array, final_obs: Array, shape: tuple[int, ...] | None) -> Array:
    row = to_obs(np.asarray(final_obs)[np.newaxis], shape)
    if row.shape[1:] != obs.shape[1:]:
        found = f"shape {list(row.shape[1:])}"
        raise reject("bad_shape", "final_obs", found, f"shape {list(obs.shape[1:])}, as in obs")
    return np.concatenate([obs, row])
