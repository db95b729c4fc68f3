"""Settings: which keys of the configuration a walk-forward may change, and what ``--set`` says of them."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learnerd.config import Config, changed, value_of
from learnerd.config_tables import Batch, Learner, Policy, Stability
from learnerd.errors import ConfigError, ConfigProblem

Key = tuple[str, str]
"""(table, key)"""

SOURCE = "--set"
SEPARATOR = "|"
MOST = 32
"""Settings side by side: more than this no table shows, and each interval must be wider for the others."""

AS_CONFIGURED = "as configured"

_DRIFT = {key for key in Stability.model_fields if key.startswith(("drift_", "starvation_"))}
_SPACES = {"observation", "observation_shape", "action"}
_SAME_WEIGHTS = {"device", "threads", "noise_scale"}

ACCEPTED: Mapping[str, frozenset[str]] = {
    "learner": frozenset(Learner.model_fields) - _SAME_WEIGHTS - {"seed"},
    "policy": frozenset(Policy.model_fields) - _SPACES,
    "batch": frozenset({"chunk_episodes", "max_chunks", "reuse"}),
    "stability": frozenset(Stability.model_fields) - _DRIFT,
}
"""Table -> keys that change what is learned from a history that is over."""

_REASONS: Mapping[Key, str] = {
    ("learner", "seed"): "--seeds learns with several",
    **dict.fromkeys((("learner", key) for key in _SAME_WEIGHTS), "it does not change what is learned"),
    **dict.fromkeys((("policy", key) for key in _SPACES), "the archived episodes have theirs"),
    **dict.fromkeys(
        (("batch", key) for key in Batch.model_fields),
        "when a batch closed, and what was drawn for it, is history; chunk_episodes cuts it anew",
    ),
    **dict.fromkeys((("stability", key) for key in _DRIFT), "it only raises alarms"),
}
_REASON = "it does not change what is learned from episodes that are archived"


class NotASetting(ValueError):  # noqa: N818 - it says what is wrong with the command line
    """What stands after ``--set`` is not as it should be; the text says how it should."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One configuration to learn with.

    Attributes:
        values: what differs from the configuration as it is; {} for that itself.
        config: the whole of it.
    """

    values: Mapping[Key, Any]
    config: Config

    @property
    def name(self) -> str:
        """For people; the keys that are accepted have different names in all tables."""
        return (
            ", ".join(f"{key}={text_of(value)}" for (_, key), value in self.values.items()) or AS_CONFIGURED
        )

    def settings(self) -> dict[str, Any]:
        """``table.key`` -> value of each that differs."""
        return {".".join(key): value for key, value in self.values.items()}


def text_of(value: Any) -> str:
    """A value as it is given on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def parse(texts: Sequence[str]) -> dict[Key, list[Any]]:
    """Read ``table.key=value`` and ``table.key=one|two|three``.

    Raises:
        NotASetting: it is something else, or a key is given twice.
    """
    found: dict[Key, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        table, dot, key = name.strip().partition(".")
        if not (equals and dot and table and key and values.strip()):
            raise NotASetting(f"{text!r}; accepted: table.key=value, such as learner.learning_rate=0.001")
        if (table, key) in found:
            both = f"{SOURCE} '{table}.{key}=one{SEPARATOR}two'"
            raise NotASetting(f"{table}.{key} is given twice; accepted: once, with all of its values: {both}")
        found[table, key] = [value_of(value.strip()) for value in values.split(SEPARATOR)]
    return found


def alternatives(config: Config, values: Mapping[Key, Sequence[Any]]) -> list[Alternative]:
    """Every combination of the values, the configuration as it is first, and only once.

    Raises:
        ConfigError: a key, a value or a combination that is not accepted.
        NotASetting: too many, or nothing that differs.
    """
    for key, some in values.items():
        check_key(key, some[0])
    count = 1
    for some in values.values():
        count *= len(some)
    if count > MOST:
        raise NotASetting(f"{count} combinations of the values; accepted: at most {MOST}")
    combinations = itertools.product(*values.values())
    asked = [with_values(config, dict(zip(values, combination, strict=True))) for combination in combinations]
    different = {one.name: one for one in asked if one.values}
    if not different:
        raise NotASetting("nothing differs from the configuration as it is; accepted: another value")
    return [Alternative(values={}, config=config), *different.values()]


def with_values(config: Config, values: Mapping[Key, Any]) -> Alternative:
    """The configuration with other values; those that it has already are not named.

    Raises:
        ConfigError: a value or a combination that is not accepted.
    """
    result = changed(config, values, source=SOURCE)
    _check_reuse(config, result)
    return Alternative(
        values={(t, k): value for (t, k), value in values.items() if _at(config, t, k) != _at(result, t, k)},
        config=result,
    )


def check_key(key: Key, value: Any) -> None:
    """Raise ConfigError for a key that is there, and changes nothing here."""
    table, name = key
    fields = Config.model_fields
    known = table in fields and name in fields[table].annotation.model_fields  # type: ignore[union-attr]
    if not known or name in ACCEPTED.get(table, ()):
        return  # what is not known is refused as in a file, with what may have been meant
    if table in ACCEPTED:
        accepted = ", ".join(sorted(ACCEPTED[table]))
    else:
        accepted = f"keys of {', '.join(f'[{one}]' for one in ACCEPTED)}"
    raise _refused(key, value, accepted, _REASONS.get(key, _REASON))


def rebatched(config: Config, other: Config) -> bool:
    """Whether batches are cut anew, not learned as they came."""
    return any(
        _at(config, "batch", key) != _at(other, "batch", key) for key in ("chunk_episodes", "max_chunks")
    )


def _check_reuse(config: Config, other: Config) -> None:
    if other.batch.reuse in {1.0, config.batch.reuse}:
        return
    accepted = "1.0, for none" if config.batch.reuse == 1.0 else f"{config.batch.reuse}, as recorded, or 1.0"
    hint = "which archived episodes would have been drawn is not known"
    raise _refused(("batch", "reuse"), other.batch.reuse, accepted, hint)


def _refused(key: Key, value: Any, accepted: str, hint: str) -> ConfigError:
    table, name = key
    shown = json.dumps(value, default=str)
    return ConfigError(
        [ConfigProblem(source=SOURCE, table=table, key=name, value=shown, accepted=accepted, hint=hint)]
    )


def _at(config: Config, table: str, key: str) -> Any:
    return getattr(getattr(config, table), key)
