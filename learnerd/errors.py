"""What can go wrong around the learner; each error knows the exit code of a command that ends with it.

LearnerdError             1
├── ConfigError           6, carries one ConfigProblem per wrong key
├── NotRebuilt            1, a recorded version cannot be made again; says what is missing
└── ExportError           1, a version cannot be written in a format
    └── LossyExportError  1, not without a loss; says which
"""

from collections.abc import Sequence
from dataclasses import dataclass

from learnerd.exit_codes import ExitCode


class LearnerdError(Exception):
    """Any error of this package; its text is for the user, on one line."""

    exit_code: ExitCode = ExitCode.FAILURE


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigProblem:
    """One thing that is wrong with the configuration.

    Attributes:
        source: the file, or the environment variable.
        table: the table's name; "" when the whole file is concerned.
        key: the key's name; "" when the whole table is concerned.
        value: what was found, as text.
        accepted: what would have been accepted.
        hint: one more sentence that helps, or "".
    """

    source: str
    table: str = ""
    key: str = ""
    value: str
    accepted: str
    hint: str = ""

    def __str__(self) -> str:
        """One line: source, table, key, value, what would be accepted."""
        place = " ".join(part for part in (f"[{self.table}]" if self.table else "", self.key) if part)
        subject = f"{self.source}: {place} is {self.value}" if place else f"{self.source}: {self.value}"
        line = f"{subject}; accepted: {self.accepted}" + (f" ({self.hint})" if self.hint else "")
        # TOML keys may hold line ends and control characters.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class ConfigError(LearnerdError):
    """The configuration cannot be used; ``problems`` says why, one entry a key."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class NotRebuilt(LearnerdError):  # noqa: N818 - it says a state
    """A recorded version cannot be made again from what is left of its making.

    Attributes:
        by_retention: whether what is missing was removed as the configuration wants it.
    """

    def __init__(self, reason: str, *, by_retention: bool = False) -> None:
        super().__init__(reason)
        self.by_retention = by_retention


class ExportError(LearnerdError):
    """A version cannot be written in a format; the text says why, and what can be."""


class LossyExportError(ExportError):
    """A version cannot be written in a format without losing something, and nobody has agreed to that.

    Attributes:
        version: which one.
        format_name: which format.
        loss: what would be lost.
    """

    def __init__(self, *, version: int, format_name: str, loss: str) -> None:
        super().__init__(
            f"version {version} as {format_name} is not what was published: {loss}; "
            "accepted: --lossy (in the configuration: [export] lossy = true)"
        )
        self.version = version
        self.format_name = format_name
        self.loss = loss
