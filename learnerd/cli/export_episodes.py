"""``learnerd export --format minari|csv|parquet``: archived episodes, for others."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from learnerd.cli.options import counted, print_json
from learnerd.datasets import Losses, format_of
from learnerd.exit_codes import ExitCode

if TYPE_CHECKING:
    from experience.episode import Episode


def export_episodes(
    archive: Path, name: str, target: str, *, version: int | None, lossy: bool, as_json: bool
) -> None:
    """Write what the archive has, in the order in which it was learned.

    Args:
        archive: its folder.
        name: one of ``learnerd.datasets.FORMATS``.
        target: a file, or a dataset's name.
        version: only what that one learned; None: everything.
        lossy: also when something is lost.
        as_json: print a document.

    Raises:
        typer.Exit: 1 when it cannot be written, 9 when there is nothing.
    """
    from experience.errors import InputError, ShardDamaged  # noqa: PLC0415 - loads NumPy

    chosen, losses, count = format_of(name), Losses(), 0
    try:
        for episode in _archived(archive, version):
            chosen.lost(episode, losses)
            count += 1
        if not lossy:
            losses.refuse("--lossy")
        if count:
            chosen.write(_archived(archive, version), target)
    except (InputError, ShardDamaged, OSError, ValueError) as error:
        typer.echo(f"{target}: {error}", err=True)
        raise typer.Exit(ExitCode.FAILURE) from None
    if not count:
        typer.echo(f"nothing to export: {archive} has no such episodes", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    _tell(
        {"schema": 1, "target": target, "format": name, "episodes": count, "lost": dict(losses.counts)},
        as_json=as_json,
    )


def _archived(archive: Path, version: int | None) -> "Iterator[Episode]":
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow
    from experience.errors import ShardDamaged  # noqa: PLC0415

    reader = ArchiveReader(archive)
    for path, problem in reader.damaged().items():
        raise ShardDamaged(path, problem)
    seen = set()  # a repair, or a crash in one, leaves an episode under two versions
    for number in reader.versions():
        for episode in reader.episodes(number) if version in (None, number) else ():
            if episode.key not in seen:
                seen.add(episode.key)
                yield episode


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    typer.echo(f"wrote {found['target']}: {counted(found['episodes'], 'episode')}")
    for text, episodes in found["lost"].items():
        typer.echo(f"  lost: {text} ({counted(episodes, 'episode')})")
