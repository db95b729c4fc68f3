"""Header plan: what the headers of one client have in common, so that the next one is compared, not parsed.

They are one text but for ids, numbers and times. A plan is made from a header that was read the long way
(``strict_json``, then ``fields``): it knows the text around the values that differ from file to file, and
what all else was converted to. The same text around other values means the same, as long as none of them can
end where JSON would not end it: a plan takes plain text and plain numbers alone. Whatever does not fit is
left to the long way, which also finds the words for it: a plan refuses nothing.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experience.codec.contract import Limits
from experience.errors import InputError
from experience.fields import FLAGS, convert, header_values, rename

MOST_PLANS = 8
"""Kinds of headers at a time: how its episodes end, for each client. One that does not fit costs 0.7 µs."""

_MOST_TEXT = 4096
"""Characters of a header that is planned for, ten times a usual one; a plan for a million takes 3 s."""

LEARNING_COST = 256
"""Headers for each new plan, which takes as long as reading fifty the long way; the first few are free."""

_TIME = object
"""Stands for text, integers and decimals."""
_DIFFER: Mapping[str, type] = {
    **dict.fromkeys(("episode_id", "client_id", "agent_id"), str),
    **dict.fromkeys(("segment", "seed", "policy_version"), int),
    **dict.fromkeys(("started_at", "ended_at"), _TIME),
}
"""Header fields with other values in nearly every file, and their types; times have several."""
_MOST_DIGITS = 33
_KINDS: Mapping[type, str] = {
    str: r'"([ !#-\[\]-~]{1,256})"',
    int: r"(0|[1-9][0-9]{0,17})",
    float: r"((?:0|[1-9][0-9]{0,14})\.[0-9]{1,17})",
}
"""What stands for itself in JSON: printable ASCII without quotes and backslashes, and usual numbers."""


class HeaderPlan(NamedTuple):
    """Headers of one kind.

    Attributes:
        pattern: their text, with a group for each value that differs.
        differing: field of each group, and what makes a value of its text.
        values: of all others, arguments of Episode.
        limits: those that it was accepted under.
    """

    pattern: re.Pattern[str]
    differing: tuple[tuple[str, Callable[[str], Any]], ...]
    values: Mapping[str, Any]
    limits: Limits

    def read(self, text: str, limits: Limits) -> dict[str, Any] | None:
        """Return arguments of Episode; None where the header is not as planned."""
        match = self.pattern.fullmatch(text)
        if match is None or limits is not self.limits:
            return None
        values = dict(self.values)
        try:
            for (name, made), found in zip(self.differing, match.groups(), strict=True):
                values[name] = made(found)
        except InputError:
            return None
        return values


class HeaderPlans:
    """The plans that fitted last."""

    def __init__(self) -> None:
        self._known: list[HeaderPlan] = []
        self._credit = MOST_PLANS * LEARNING_COST

    def read(self, text: str, limits: Limits) -> dict[str, Any] | None:
        """Return arguments of Episode as the plan that fits gives them; None where none does."""
        self._credit = min(self._credit + 1, MOST_PLANS * LEARNING_COST)
        for place, plan in enumerate(self._known):
            values = plan.read(text, limits)
            if values is not None:
                if place:
                    self._known.insert(0, self._known.pop(place))
                return values
        return None

    def learn(self, text: str, header: Mapping[str, Any], ends: Mapping[str, bool], limits: Limits) -> None:
        """Plan for headers like this one, unless it is long, when enough of them have come.

        Args:
            text: the whole of it.
            header: what JSON makes of it.
            ends: ``terminated`` and ``truncated``, as it alone says.
            limits: it was accepted under these.
        """
        is_usual = len(text) <= _MOST_TEXT and limits.max_number_characters >= _MOST_DIGITS
        if is_usual and self._credit >= LEARNING_COST:
            self._credit -= LEARNING_COST
            self._known = [_plan_of(text, header, ends, limits), *self._known[: MOST_PLANS - 1]]


def _plan_of(text: str, header: Mapping[str, Any], ends: Mapping[str, bool], limits: Limits) -> HeaderPlan:
    places = sorted(place for name in _DIFFER if (place := _place(text, name, header.get(name))))
    pattern, at = "", 0
    for begin, end, _, kind in places:
        pattern += re.escape(text[at:begin]) + _KINDS[kind]
        at = end
    differing = tuple((name, _maker(name, kind)) for _, _, name, kind in places)
    fixed = rename({name: value for name, value in header.items() if name not in dict(differing)})
    values = header_values({name: value for name, value in fixed.items() if name not in FLAGS})
    values["incomplete"] = values.get("incomplete", False)
    return HeaderPlan(re.compile(pattern + re.escape(text[at:])), differing, {**values, **ends}, limits)


def _maker(name: str, kind: type) -> Callable[[str], Any]:
    """Convert as ``fields`` does; of texts and integers that only looks at what the pattern has seen."""
    return (lambda text: convert(name, kind(text))) if _DIFFER[name] is _TIME else kind


def _place(text: str, name: str, value: object) -> tuple[int, int, str, type] | None:
    """(begin, end, name, kind) of the value of ``name``; None where it is not there, or not plain."""
    kind = type(value)
    quoted = f'"{name}"'
    if kind not in _KINDS or _DIFFER[name] not in (kind, _TIME) or "\\" in text or text.count(quoted) != 1:
        return None  # without backslashes the name's only place is that of the field
    found = re.search(rf"{quoted}\s*:\s*({_KINDS[kind]})[,}}\s]", text)
    return None if found is None else (*found.span(1), name, kind)
