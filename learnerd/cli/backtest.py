"""``learnerd backtest``: what archived trading sessions earned, by version or by time."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from learnerd.cli.options import ConfigOption, JsonOption, check_folder_of, print_json, read_config
from learnerd.config import Config
from learnerd.errors import LearnerdError
from learnerd.exit_codes import ExitCode

if TYPE_CHECKING:
    from learnerd.backtest import Ledger, Row

REWARD = "reward"
"""The unit of those who name none."""

PerOption = Annotated[
    Literal["version", "day", "week"], typer.Option("--per", help="Groups; days and weeks in UTC.")
]
PositionOption = Annotated[
    str,
    typer.Option(
        "--position",
        metavar="A=P,…",
        help='Position of each action, such as "0=-1,1=1"; else the action itself.',
    ),
]
CostOption = Annotated[
    float, typer.Option("--cost", min=0.0, help="Of one unit bought or sold, in the rewards' unit.")
]
BpsOption = Annotated[
    float, typer.Option("--cost-bps", min=0.0, help="The same as 1/10,000, for rewards that are fractions.")
]
YearOption = Annotated[
    float | None, typer.Option("--steps-per-year", help="Annualizes the Sharpe ratio; else it is per step.")
]
UnitOption = Annotated[str, typer.Option("--unit", help="What the rewards are, for the headings.")]
ClientOption = Annotated[str, typer.Option("--client", help="Only this client's sessions.")]
PngOption = Annotated[
    Path | None, typer.Option("--png", metavar="FILE", help="Draw profit and drawdown too.")
]


def command(
    ctx: typer.Context,
    *,
    per: PerOption = "version",
    position: PositionOption = "action",
    cost: CostOption = 0.0,
    cost_bps: BpsOption = 0.0,
    steps_per_year: YearOption = None,
    unit: UnitOption = REWARD,
    client: ClientOption = "",
    png: PngOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Sum up archived trading sessions: a step's reward is its profit before costs.

    Exit code 9 when the archive has none, 1 when an action has no position, or a shard is
    damaged.
    """
    if steps_per_year is not None and not 0 < steps_per_year < math.inf:
        raise typer.BadParameter(f"--steps-per-year {steps_per_year:g}; accepted: a number > 0")
    for option, number in (("--cost", cost), ("--cost-bps", cost_bps)):
        if number == math.inf:
            raise typer.BadParameter(f"{option} inf; accepted: a number >= 0")
    check_folder_of(png, "--png")
    settings, positions = read_config(ctx, config), _positions(position)
    from learnerd.backtest import ledger, rows  # noqa: PLC0415 - loads NumPy

    episodes = [e for e in _archived(settings) if not client or e.client_id == client]
    if not episodes:
        typer.echo("nothing to backtest: no archived episode", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    found = ledger(episodes, positions, cost=cost + cost_bps * 1e-4)
    table = rows(found, per=per, steps_per_year=steps_per_year)
    if as_json:
        print_json({"schema": 1, "per": per, "unit": unit, "rows": [asdict(row) for row in table]})
    else:
        _print_table(table, per=per, unit=unit, steps_per_year=steps_per_year)
    if png is not None:
        _plot(png, found, unit)


def _archived(settings: Config) -> list[Any]:
    """Every archived episode, each once: what was repaired is archived twice."""
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow
    from experience.errors import ShardDamaged  # noqa: PLC0415
    from experience.spool import Spool  # noqa: PLC0415

    try:
        archive = ArchiveReader(Spool(settings.paths.spool, writer="backtest").archive_folder)
        for damage in archive.damaged().values():
            raise LearnerdError(damage)
        return list({e.key: e for v in archive.versions() for e in archive.episodes(v)}.values())
    except (ShardDamaged, FileNotFoundError) as error:
        raise LearnerdError(str(error)) from error


def _positions(text: str) -> dict[int, float] | None:
    """What ``--position`` says; None: the action is the position."""
    if text == "action":
        return None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        found = {int(action): float(position) for action, position in pairs}
    except ValueError:
        found = {}
    if not found or not all(map(math.isfinite, found.values())):
        accepted = 'action, or pairs such as "0=-1,1=1"'
        raise typer.BadParameter(f"--position {text}; accepted: {accepted}")
    return found


def _plot(png: Path, found: "Ledger", unit: str) -> None:
    from learnerd.backtest_plot import write_plot  # noqa: PLC0415 - an extra

    try:
        write_plot(png, found, title="What the archived sessions earned", unit=unit)
    except ImportError as error:
        raise LearnerdError(f"--png needs matplotlib: install learnerd[demo] ({error})") from error


def _print_table(found: "list[Row]", *, per: str, unit: str, steps_per_year: float | None) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed for --json
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for name in (per, "steps", "profit", "costs", "Sharpe", "max drawdown", "CVaR 5%", "wins", "turnover"):
        table.add_column(name, justify="right")
    for row in found:
        wins = "-" if row.win_rate is None else f"{row.win_rate:.0%}"
        ratio = "-" if row.sharpe is None else f"{row.sharpe:.3f}"
        money = (f"{value:.4g}" for value in (row.profit, row.costs))
        rest = (f"{row.max_drawdown:.4g}", f"{row.cvar:.4g}", wins, f"{row.turnover:.4g}")
        table.add_row(row.group, str(row.steps), *money, ratio, *rest)
    Console(highlight=False, emoji=False).print(table)
    yearly = "per step" if steps_per_year is None else f"a year of {steps_per_year:g} steps"
    in_what = "the rewards' unit" if unit == REWARD else unit
    typer.echo(f"money in {in_what}; profit after costs; Sharpe ratio {yearly}")
