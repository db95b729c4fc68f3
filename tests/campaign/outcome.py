"""What a promise's campaign reports: how many trials, what broke, the figure reached."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one promise's trials.

    Attributes:
        trials: Trials carried out.
        violations: One line for each broken promise; empty when the promise held.
        figure: What was reached, in a few words, for the table.
        skipped: Why something could not be run on this machine; empty when everything ran.
    """

    trials: int
    violations: tuple[str, ...]
    figure: str
    skipped: str = ""
