"""What the doctor says."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "notice", "warning", "failure"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's outcome.

    Attributes:
        check: what was looked at.
        severity: "notice": nothing is wrong, but worth knowing; "warning": it works, but not as it should;
            "failure": it does not work.
        what: what was found.
        remedy: what to do; "" when it is ok.
    """

    check: str
    severity: Severity
    what: str
    remedy: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check=check, severity="ok", what=what)


def notice(check: str, what: str, remedy: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check=check, severity="notice", what=what, remedy=remedy)


def warning(check: str, what: str, remedy: str) -> Finding:
    """It works, but not as it should."""
    return Finding(check=check, severity="warning", what=what, remedy=remedy)


def failure(check: str, what: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check=check, severity="failure", what=what, remedy=remedy)
