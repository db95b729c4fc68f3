"""JSONL: a header line, one line a step, an end line; several episodes may follow one another."""

import dataclasses
import io
from collections.abc import Iterator, Mapping
from typing import Any

from experience.codec.assemble import assemble
from experience.codec.columns import Column
from experience.codec.contract import Decoded, Source
from experience.codec.parts import NestedObs
from experience.episode import Episode
from experience.errors import InputError, Problem, reject
from experience.fields import HEADER_FIELDS, STEP_FIELDS, accepted_names, merge, outcome, rename
from experience.space_parsing import counts_from_zero, row_space_json, space_of_rows
from experience.spaces import Space
from experience.strict_json import parse_json

_FLAGS = ("terminated", "truncated", "done")
_END_ONLY = (*_FLAGS, "final_obs", "obs")
_REQUIRED = ("obs", "reward")
_ACCEPTED_HEADER = 'a header line before the steps: an object without action, such as {"episode_id": "…"}'
_ACCEPTED_END = 'an end line after the last step: {"final_obs": […], "terminated": true, "truncated": false}'
_BOM = b"\xef\xbb\xbf"


def read(data: bytes, source: Source) -> Decoded:
    """Read every episode of the file; one that is bad becomes a problem with its index.

    Raises:
        InputError: ``truncated`` when the last line is cut short; or the first line is no header.
    """
    reader = _Reader(data, source)
    for number, line in _lines(data):
        reader.feed(number, line)
    return reader.finish()


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line); blank lines are left out."""
    for number, line in enumerate(io.BytesIO(data.removeprefix(_BOM)), 1):
        if line.strip():
            yield number, line


class _Reader:
    """Follows the lines and closes an episode at each end line and before each further header."""

    def __init__(self, data: bytes, source: Source) -> None:
        self._data = data
        self._source = source
        self._open: _Recording | None = None
        self._n_lines = 0
        self._n_recordings = 0
        self._decoded_bytes = 0
        self._episodes: list[Episode] = []
        self._problems: list[Problem] = []

    def feed(self, number: int, line: bytes) -> None:
        """Take one line."""
        where = f"line {number}"
        self._n_lines += 1
        try:
            values = self._parse(where, line)
        except InputError as error:
            if self._n_lines == 1 or error.problem.reason == "truncated":
                raise
            (self._open or self._begin({})).blame(error.problem)
            return
        kind = _kind(values)
        if self._n_lines == 1 and kind != "header":
            raise reject("missing_field", "header", f"left out; {where} is no header", _ACCEPTED_HEADER)
        self._take(kind, where, values)

    def finish(self) -> Decoded:
        """Close the last episode, which is incomplete when no end line came."""
        if self._n_lines == 0:
            raise reject("truncated", "file", "blank", _ACCEPTED_HEADER)
        self._close(None)
        return Decoded(episodes=tuple(self._episodes), problems=tuple(self._problems))

    def _parse(self, where: str, line: bytes) -> dict[str, Any]:
        limits = self._source.limits
        try:
            value = parse_json(
                line.strip(),
                field=where,
                max_depth=limits.max_json_depth,
                max_number_characters=limits.max_number_characters,
            )
        except InputError as error:
            if error.problem.reason == "malformed" and not line.endswith(b"\n"):
                raise reject("truncated", where, "cut short", "a complete last line") from error
            raise
        if not isinstance(value, dict):
            raise reject("malformed", where, value, "a JSON object")
        return rename(value)

    def _take(self, kind: str, where: str, values: dict[str, Any]) -> None:
        match kind:
            case "header":
                self._close(None)
                self._begin(values)
            case "step":
                self._recording().add(where, values)
            case "end":
                self._recording()
                self._close(values)
            case _:
                accepted = (
                    f"{accepted_names('action')} on a step line; terminated or truncated on an end line"
                )
                error = reject("missing_field", "action", f"left out of {where}", accepted)
                self._recording().blame(error.problem)

    def _recording(self) -> "_Recording":
        """The episode in progress; without a header it is one that cannot be read."""
        if self._open is None:
            recording = self._begin({})
            recording.blame(reject("missing_field", "header", "left out", _ACCEPTED_HEADER).problem)
        assert self._open is not None
        return self._open

    def _begin(self, header: dict[str, Any]) -> "_Recording":
        limit = self._source.limits.max_episodes
        if self._n_recordings >= limit:
            raise reject("too_large", "episodes", f"more than {limit}", f"at most {limit} in one file")
        self._open = _Recording(header, self._n_recordings)
        self._n_recordings += 1
        return self._open

    def _close(self, end: dict[str, Any] | None) -> None:
        recording, self._open = self._open, None
        if recording is None:
            return
        try:
            episode = recording.finish(end, self._data, self._source)
        except InputError as error:
            self._problems.append(dataclasses.replace(error.problem, index=recording.index))
            return
        self._check_size(episode)
        self._episodes.append(episode)

    def _check_size(self, episode: Episode) -> None:
        self._decoded_bytes += episode.obs.nbytes + episode.action.nbytes + episode.reward.nbytes
        limit = self._source.limits.max_decoded_bytes
        if self._decoded_bytes > limit:
            raise reject("too_large", "decoded size", f"more than {limit} bytes", f"at most {limit} bytes")


def _kind(values: Mapping[str, Any]) -> str:
    """What a line is: "step", "end", "header", or "neither" (step fields without an action)."""
    if "action" in values:
        return "step"
    if any(name in values for name in _FLAGS):
        return "end"
    return "neither" if "final_obs" in values or any(name in values for name in STEP_FIELDS) else "header"


class _Recording:
    """The steps of one episode so far."""

    def __init__(self, header: dict[str, Any], index: int) -> None:
        self.index = index
        self._header = header
        self._observations = NestedObs(_declared(header))
        self._columns: dict[str, Column] = {}
        self._extras: dict[str, list[Any]] = {}
        self._n_steps = 0
        self._problem: Problem | None = None
        self._flag: tuple[int, str] | None = None

    def blame(self, problem: Problem) -> None:
        """Give the episode up; the first problem stands."""
        self._problem = self._problem or problem
        self._columns.clear()
        self._extras.clear()

    def add(self, where: str, values: dict[str, Any]) -> None:
        """Take one step line."""
        if self._problem is not None:
            return
        try:
            self._add(where, values)
        except InputError as error:
            self.blame(error.problem)

    def _add(self, where: str, values: dict[str, Any]) -> None:
        step = self._n_steps
        values = _rename_on_step(values)
        for name in _REQUIRED:
            if values.get(name) is None:
                raise reject("missing_field", f"{name}[{step}]", f"left out of {where}", accepted_names(name))
        values["obs"] = self._observations.row(values["obs"], f"obs[{step}]", first=step == 0)
        for name in _FLAGS:
            if values.pop(name, None) and self._flag is None:
                self._flag = (step, name)
        for name, value in values.items():
            if name not in STEP_FIELDS and value is not None:
                self._extras.setdefault(name, [None] * step).append(value)
            elif value is not None:
                self._column(name, step, where).add(value)
        self._n_steps += 1
        self._check_columns(where)

    def _column(self, name: str, step: int, where: str) -> Column:
        column = self._columns.get(name)
        if column is None:
            if step:
                found = f"left out of the steps before {where}"
                raise reject(
                    "missing_field", f"{name}[{step - 1}]", found, f"{name} on every step, or on none"
                )
            column = self._columns[name] = Column(name)
        return column

    def _check_columns(self, where: str) -> None:
        for name, column in self._columns.items():
            if len(column) != self._n_steps:
                found = f"left out of {where}"
                accepted = f"{name} on every step, or on none"
                raise reject("missing_field", f"{name}[{self._n_steps - 1}]", found, accepted)
        for values in self._extras.values():
            if len(values) != self._n_steps:
                values.append(None)

    def finish(self, end: dict[str, Any] | None, data: bytes, source: Source) -> Episode:
        """Build the episode; without an end line it is incomplete."""
        if self._problem is not None:
            raise InputError(self._problem)
        self._check_flag(end)
        _check_end(end)
        if self._n_steps == 0:
            raise reject("bad_shape", "reward", "0 steps", "at least one step line before the end line")
        terminated, truncated = (False, False) if end is None else outcome(end)
        return assemble(
            {name: column.array() for name, column in self._columns.items()},
            header=self._whole_header(end),
            terminated=terminated,
            truncated=truncated,
            incomplete=end is None,
            final_obs=_final_obs(end, self._observations, terminated=terminated),
            source=source,
            data=data,
            index=self.index,
        )

    def _whole_header(self, end: Mapping[str, Any] | None) -> dict[str, Any]:
        """The header line, what the steps say besides, and what is known only at the end (``ended_at``)."""
        header = dict(self._header)
        merge(header, {name: _constant(name, values) for name, values in self._extras.items()})
        merge(header, {name: value for name, value in (end or {}).items() if name not in _END_ONLY})
        if self._observations.space is not None:  # rows count from 0 by now
            given = header.get("observation_space")
            space = self._observations.space if given is None else space_of_rows(given)
            header["observation_space"] = row_space_json(space)
        return header

    def _check_flag(self, end: Mapping[str, Any] | None) -> None:
        """A step that says it was the last must be, and the end line must say the same."""
        if self._flag is None:
            return
        step, name = self._flag
        said = end is not None and any(end.get(flag) for flag in (_FLAGS if name == "done" else (name,)))
        if step != self._n_steps - 1 or not said:
            found = f"true on a step line, {'no end line' if end is None else 'not on the end line'} after it"
            raise reject("bad_value", f"{name}[{step}]", found, _ACCEPTED_END)


def _check_end(end: Mapping[str, Any] | None) -> None:
    for name in STEP_FIELDS:
        if name != "obs" and (end or {}).get(name) is not None:
            raise reject("bad_value", name, "given on an end line", f"{name} on step lines, beside action")


def _rename_on_step(values: dict[str, Any]) -> dict[str, Any]:
    """On a step line ``policy_version`` and ``info`` mean that step's; version null means none of ours."""
    if "policy_version" in values:
        values["policy_version_step"] = 0 if values["policy_version"] is None else values["policy_version"]
        del values["policy_version"]
    if "info" in values:
        values["step_info"] = values.pop("info") or None
    return values


def _constant(name: str, values: list[Any]) -> Any:
    """A header field repeated on the step lines counts once; other extras stay one a step."""
    same = name in HEADER_FIELDS and all(value == values[0] for value in values)
    return values[0] if same else values


def _declared(header: Mapping[str, Any]) -> Space | None:
    """The header's space; what is none is refused when the episode is put together."""
    given = header.get("observation_space")
    try:
        space = None if given is None else space_of_rows(given)
    except ValueError:
        return None
    return space.canonical() if space is not None and counts_from_zero(given) else space


def _final_obs(end: Mapping[str, Any] | None, observations: NestedObs, *, terminated: bool) -> Any:
    if end is None:
        return None
    given = [end[name] for name in ("final_obs", "obs") if end.get(name) is not None]
    if not given:
        if not terminated:
            accepted = (
                "the observation after the last action; it may be left out only where terminated is true"
            )
            raise reject("missing_field", "final_obs", "left out", accepted)
        return None
    column = Column("final_obs")
    column.add(observations.row(given[0], "final_obs"))
    return column.array()[0]
