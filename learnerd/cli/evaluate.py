"""``learnerd evaluate``: what versions would earn, estimated from archived episodes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from learnerd.cli.options import ConfigOption, JsonOption, print_json, read_config
from learnerd.config import Config
from learnerd.exit_codes import ExitCode

if TYPE_CHECKING:
    from learnerd.evaluating import Evaluation

VersionsArgument = Annotated[
    list[int] | None,
    typer.Argument(min=1, metavar="[VERSION]...", help="Left out: the acting one and the newest."),
]
MethodOption = Annotated[
    str, typer.Option("--method", help="cwpdis, wis, pdis, dr, wdr or fqe; see docs/evaluation.md.")
]
AgainstOption = Annotated[
    str, typer.Option("--against", metavar="V|live", help="Estimate differences from this version.")
]
EpisodesOption = Annotated[
    int,
    typer.Option(
        "--episodes", min=2, help="The newest, at most so many, nor more steps than max_steps of a batch."
    ),
]
LevelOption = Annotated[float, typer.Option("--level", help="Of the intervals, between 0 and 1.")]
GammaOption = Annotated[
    float | None, typer.Option("--gamma", min=0.0, max=1.0, help="Discount; left out: the learner's gamma.")
]
UnseenOption = Annotated[
    bool, typer.Option("--unseen", help="Only episodes that none of the versions has learned from.")
]
LeaveOutOption = Annotated[
    bool, typer.Option("--leave-out", help="Go without episodes that have no log-probabilities.")
]


def command(
    ctx: typer.Context,
    versions: VersionsArgument = None,
    *,
    method: MethodOption = "cwpdis",
    against: AgainstOption = "",
    episodes: EpisodesOption = 1000,
    level: LevelOption = 0.95,
    gamma: GammaOption = None,
    unseen: UnseenOption = False,
    leave_out: LeaveOutOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Estimate what versions would earn, from archived episodes in which others acted.

    Nobody acts with them for that, and the daemon may run or not. Exit code 9 when there is no version or no
    archived episode, 1 when the episodes cannot tell; then it says why.
    """
    settings = read_config(ctx, config)
    from learnerd.evaluating import Request, evaluate_versions  # noqa: PLC0415 - loads NumPy
    from policies.errors import NotEvaluable  # noqa: PLC0415
    from policies.evaluation import ESTIMATORS  # noqa: PLC0415
    from policies.evaluation.bootstrap import Bootstrap  # noqa: PLC0415

    if method not in ESTIMATORS:
        raise typer.BadParameter(f"--method {method}; accepted: {', '.join(ESTIMATORS)}")
    try:
        request = Request(
            versions=tuple(versions or ()),
            method=method,
            against=_version(against, settings),
            gamma=gamma,
            most_episodes=episodes,
            unseen=unseen,
            leave_out=leave_out,
            bootstrap=Bootstrap(level=level),
        )
    except NotEvaluable as error:
        raise typer.BadParameter(f"--{error}") from None
    found = evaluate_versions(settings, request)
    if found is None:
        typer.echo("nothing to evaluate: no version or no archived episode yet", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    if as_json:
        print_json(found.to_json())
    else:
        _print_table(found)


def _version(text: str, settings: Config) -> int | None:
    """The version that ``--against`` names; "live" is what CURRENT names."""
    if text in {"", None}:
        return None
    if text == "live":
        from learnerd.versions import current  # noqa: PLC0415

        acting = current(settings.paths.state)
        if acting is None:
            typer.echo("nothing to evaluate: --against live, and no version acts yet", err=True)
            raise typer.Exit(ExitCode.NOTHING_TO_DO)
        return acting
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--against {text}; accepted: live, or a version's number")
    return int(text)


def _print_table(found: "Evaluation") -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed for --json
    from rich.table import Table  # noqa: PLC0415

    first = found.rows[0].estimate
    what = "return" if found.against is None else f"return - that of {found.against}"
    table = Table(box=None, pad_edge=False)
    for name in ("version", what, f"{first.level:.0%} interval", "effective share", "learned from"):
        table.add_column(name, justify="right")
    for row in found.rows:
        table.add_row(*map(str, _cells(row)))
    Console(highlight=False, emoji=False).print(table)
    counts = ", ".join(f"{n} {name}" for name, n in found.sources.items() if n)
    typer.echo(
        f"{first.method}, discount {found.gamma:g}, {first.n_episodes} episodes, {first.n_steps} steps; "
        f"log-probabilities: {counts}"
    )
    if any(row.learned_from > 0 for row in found.rows):
        typer.echo(
            "a version looks too good on episodes that it has learned from; --unseen takes others only"
        )


def _cells(row: Any) -> tuple[str, ...]:
    one = row.estimate
    interval = f"{one.low:.4g} to {one.high:.4g}"
    return (
        str(row.version),
        f"{one.value:.4g}",
        interval,
        f"{one.ess_fraction:.2f}",
        f"{row.learned_from:.0%}",
    )
