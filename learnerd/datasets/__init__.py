"""Datasets: episodes that others recorded, read into the spool, and the archive's, written for others.

A format is a module in this folder with ``read`` and ``write``, and one line in FORMATS.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # the command line names the formats without loading NumPy
    from experience.episode import Episode

FORMATS = ("minari", "csv", "parquet")


class Losses:
    """What a conversion cannot keep: text -> how many episodes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, text: str, *, when: bool = True) -> None:
        """Count one episode, if ``when``."""
        if when:
            self.counts[text] += 1

    def refuse(self, what: str) -> None:
        """Raise ValueError when anything is lost; ``what`` names the word that does it all the same."""
        if self.counts:
            raise ValueError(f"it cannot be done exactly: {self}; {what} does it so")

    def __str__(self) -> str:
        return "; ".join(
            f"{text} ({count} episode{'s' * (count > 1)})" for text, count in sorted(self.counts.items())
        )


class Format(Protocol):
    """What a module of this folder has."""

    def read(self, source: str, losses: Losses, names: Mapping[str, str]) -> "Iterator[Episode]":
        """Yield the episodes of ``source``, a file or the name of a dataset.

        Args:
            source: where they are.
            losses: is told what an episode loses.
            names: field -> column or columns, of tables.

        Raises:
            experience.errors.InputError: naming the episode, the field, the value and what is accepted.
            OSError, ValueError: it cannot be read.
        """

    def lost(self, episode: "Episode", losses: Losses) -> None:
        """Tell what the format has no place for in ``episode``."""

    def write(self, episodes: "Iterable[Episode]", target: str) -> int:
        """Write ``episodes`` to ``target``; return how many.

        Raises:
            experience.errors.InputError: they do not fit together, naming the episode and the field.
            OSError, ValueError: it cannot be written.
        """


def format_of(name: str) -> Format:
    """Import the module of one format."""
    return cast(Format, import_module(f"{__name__}.{name}"))
