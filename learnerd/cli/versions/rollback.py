"""``learnerd versions rollback``: publish an old version's weights as the newest version."""

from typing import Annotated

import typer

from learnerd.cli.options import ConfigOption, JsonOption, print_json, read_config
from learnerd.cli.versions.options import VersionArgument, refuse
from learnerd.exit_codes import ExitCode

WRITER = "operator"

ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the manifest.")]


def command(
    ctx: typer.Context,
    version: VersionArgument,
    *,
    config: ConfigOption = None,
    reason: ReasonOption = "asked for on the command line",
    as_json: JsonOption = False,
) -> None:
    """Go back to a version: its weights become a new version, and nothing is learned from those in between.

    The daemon may run or not. Exit code 9 when the newest version has these weights already, 1 when they
    cannot be gone back to, 5 when the store is busy.
    """
    state = read_config(ctx, config).paths.state
    from policies import errors  # noqa: PLC0415 - loads NumPy
    from policies.store import CheckpointStore  # noqa: PLC0415

    try:
        done = CheckpointStore(state).rollback(version, writer=WRITER, reason=reason)
    except errors.NothingToRollBack as error:
        typer.echo(f"nothing to do: {error}", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO) from None
    except (errors.NotAVersion, errors.VersionPruned, errors.VersionDamaged) as error:
        refuse(str(error), state)
    else:
        found = {"version": done.version, **done.manifest["rollback"]}
        ((first, last),) = found["rejected"]
        rejected = str(first) if first == last else f"{first}-{last}"
        text = f"version {done.version} has the weights of version {version}; rejected: {rejected}"
        print_json(found) if as_json else typer.echo(text)
