"""``learnerd setup``: a commented configuration, its folders, and a look at the machine."""

import os
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from learnerd.cli import doctor
from learnerd.config import FILE_NAME, TEMPLATE, Config, load_config
from learnerd.doctor import examine
from learnerd.exit_codes import ExitCode


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", file_okay=False, help="Where to set up.")
    ] = Path(),
    *,
    force: Annotated[
        bool, typer.Option("--force", help=f"Replace {FILE_NAME}; the old one is kept as .bak.")
    ] = False,
) -> None:
    """Write a commented config.toml with its folders under DIR, and check the machine."""
    file = folder / FILE_NAME
    _write_template(file, force=force)
    config = load_config(file, os.environ)
    _make_folders(config)
    findings = doctor.show(examine(config, os.environ))
    if doctor.exit_code(findings) == ExitCode.FAILURE:
        raise typer.Exit(ExitCode.FAILURE)
    option = "" if folder.resolve() == Path.cwd() else f" --config {shlex.quote(str(file))}"
    typer.echo(f"\nnext:\n  learnerd run{option}\n  learnerd status{option}")


def _write_template(file: Path, *, force: bool) -> None:
    """Never overwrite what a user wrote; ``force`` keeps it aside."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(file):
        if not force:
            typer.echo(f"{file} is there already and stays as it is (--force replaces it)")
            return
        backup = file.with_name(f"{FILE_NAME}.bak")
        file.replace(backup)
        typer.echo(f"the old {FILE_NAME} is now {backup}")
    shutil.copyfile(TEMPLATE, file)
    typer.echo(f"wrote {file}")


def _make_folders(config: Config) -> None:
    from experience.spool import Spool  # noqa: PLC0415 - loads NumPy

    Spool(config.paths.spool).make_folders()
    for name in ("checkpoints", "ledger", "lock"):
        (config.paths.state / name).mkdir(parents=True, exist_ok=True)
    typer.echo(f"folders: {config.paths.spool}, {config.paths.state}")
