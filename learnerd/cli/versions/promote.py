"""``learnerd versions promote``: let clients act with a version that was held back."""

from typing import Annotated

import typer

from learnerd.cli.options import ConfigOption, JsonOption, print_json, read_config
from learnerd.cli.versions.options import refuse
from learnerd.cli.versions.rollback import WRITER, ReasonOption
from learnerd.exit_codes import ExitCode

PromotedArgument = Annotated[
    int | None, typer.Argument(min=1, metavar="[VERSION]", help="Which one; left out: the newest.")
]


def command(
    ctx: typer.Context,
    version: PromotedArgument = None,
    *,
    config: ConfigOption = None,
    reason: ReasonOption = "asked for on the command line",
    as_json: JsonOption = False,
) -> None:
    """Point CURRENT to a version that the gate holds back; a new version with the newest weights records it.

    The daemon may run or not. Exit code 9 when it acts already or may not act, 1 when it is not there, 5
    when the store is busy.
    """
    state = read_config(ctx, config).paths.state
    from policies import errors  # noqa: PLC0415 - loads NumPy
    from policies.store import CheckpointStore  # noqa: PLC0415

    store = CheckpointStore(state)
    try:
        done = store.promote(version, writer=WRITER, reason=reason)
    except errors.NothingToPromote as error:
        typer.echo(f"nothing to do: {error}", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO) from None
    except (errors.NotAVersion, errors.VersionPruned, errors.VersionDamaged) as error:
        refuse(str(error), state)
    else:
        found = {"version": done.version, "acting": store.current(), "reason": reason}
        text = f"version {found['acting']} acts from now on; version {done.version} says so in its manifest"
        print_json(found) if as_json else typer.echo(text)
