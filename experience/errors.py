"""What can be wrong with input.

ExperienceError
├── InputError        a file or an episode that cannot be read; carries a Problem
├── DecoderDied       the decoder process ended or overran its deadline on a file
├── BadFrame          the decoder process wrote what is no frame
├── NotYetClosed      an EpisodeWriter was asked for a step after its end, or the other way round
└── ShardDamaged      a Parquet shard of ours is not what was written
"""

import re
from dataclasses import dataclass
from pathlib import Path

REASON = re.compile(r"[a-z0-9_]{1,64}")
"""What names a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why a file or an episode was set aside: one record, for people and for counting.

    Attributes:
        reason: a short snake_case word; names the folder under ``quarantine/`` or ``refused/``.
        field: which field, column, config key or limit is concerned.
        value: what was found, as text, at most 200 characters.
        accepted: what would have been accepted, as text.
        index: position of the episode in its file; None when the whole file is concerned.
    """

    reason: str
    field: str
    value: str
    accepted: str
    index: int | None = None

    def __str__(self) -> str:
        """One sentence: field, value, and what would be accepted."""
        return f"{self.reason}: {self.field} is {self.value}; accepted: {self.accepted}"


class ExperienceError(Exception):
    """Any error of this package."""


class InputError(ExperienceError):
    """A file or an episode cannot be read; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class DecoderDied(ExperienceError):  # noqa: N818 - a fact, not an error of the caller
    """The decoder process ended, or overran its deadline, while it worked on a file."""


class BadFrame(ExperienceError):  # noqa: N818
    """Bytes on the pipe from the decoder process are no frame."""


class NotYetClosed(ExperienceError):  # noqa: N818
    """``EpisodeWriter`` was called out of order."""


class ShardDamaged(ExperienceError):  # noqa: N818
    """A Parquet shard of ours is not what was written; ``path`` names it."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path}: {found}")
        self.path = path


def reject(reason: str, field: str, value: object, accepted: str, *, index: int | None = None) -> InputError:
    """Build the error for one bad field; long values are cut to 200 characters."""
    text = value if isinstance(value, str) else repr(value)
    return InputError(
        Problem(reason=reason, field=field, value=text[:200], accepted=accepted, index=index),
    )
