"""``learnerd replay --set`` and ``--tune``: what other settings would have learned from the archive."""

import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from learnerd.cli.options import check_folder_of, counted, print_json, width_of
from learnerd.cli.progress import progress
from learnerd.config import Config
from learnerd.errors import LearnerdError
from learnerd.exit_codes import ExitCode

if TYPE_CHECKING:
    from learnerd.walkforward.results import Standing
    from learnerd.walkforward.search import Found
    from learnerd.walkforward.settings import Key
    from learnerd.walkforward.side_by_side import Comparison, History

    Given = dict[Key, list[Any]]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="What if? Also several values, 'a|b': every combination is compared with the configuration as "
        "it is, walk-forward. Repeat it for further keys.",
    ),
]
TuneOption = Annotated[
    int | None,
    typer.Option(
        "--tune",
        min=1,
        metavar="N",
        help="Search for better settings: N trials, with Optuna (the extra tune).",
    ),
]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", min=1, help="With --set, --tune: how many seeds each (3).")
]
PartsOption = Annotated[
    int | None,
    typer.Option("--parts", min=2, help="With --set, --tune: into how many the history is cut (8)."),
]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", min=1, help="With --set, --tune: processes (one a usable core).")
]
MethodOption = Annotated[
    str | None, typer.Option("--method", help="With --set, --tune: the estimator, as for evaluate (cwpdis).")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="With --set: draw it too, a PNG.")
]

SHOWN_TRIALS = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was given, None where nothing was."""

    set_: list[str] | None
    tune: int | None
    seeds: int | None
    parts: int | None
    jobs: int | None
    method: str | None
    plot: Path | None

    @property
    def wanted(self) -> bool:
        """Whether it is a what-if; raises BadParameter when only some of its options are there."""
        if self.set_ or self.tune:
            return True
        for name in ("seeds", "parts", "jobs", "method", "plot"):
            if getattr(self, name) is not None:
                raise typer.BadParameter("it goes with --set or --tune", param_hint=f"--{name}")
        return False


def what_if(config: Config, options: Options, *, as_json: bool) -> None:
    """Compare settings, or search for better ones, and print what came out.

    Raises:
        LearnerdError: what is asked for cannot be told; says why.
    """
    if options.tune and options.plot:
        raise typer.BadParameter("it goes with --set alone, not with --tune", param_hint="--plot")
    check_folder_of(options.plot, "--plot")
    from learnerd.walkforward.settings import NotASetting, parse  # noqa: PLC0415

    try:
        given = parse(options.set_ or ())
        do = _tune if options.tune else _compare
        do(config, given, options, as_json=as_json)
    except NotASetting as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None


def _compare(config: Config, given: "Given", options: Options, *, as_json: bool) -> None:
    from learnerd.walkforward.pool import Pool  # noqa: PLC0415
    from learnerd.walkforward.settings import alternatives  # noqa: PLC0415
    from learnerd.walkforward.side_by_side import compare  # noqa: PLC0415

    asked = alternatives(config, given)
    history = _history(config, options)
    parts = len(asked) * len(history.seeds) * len(history.parts)
    with Pool(_jobs(options)) as pool, progress(parts, doing="what if", of="parts") as advance:
        found = compare(history, asked, run=functools.partial(pool.run, on_part=advance))
    print_json(found.to_json()) if as_json else _print_comparison(found)
    if options.plot is not None:
        _plot(options.plot, found)


def _history(config: Config, options: Options) -> "History":
    from learnerd.log import configure  # noqa: PLC0415
    from learnerd.walkforward.side_by_side import Request, history_of  # noqa: PLC0415
    from policies.evaluation import DEFAULT, ESTIMATORS  # noqa: PLC0415

    method = options.method or DEFAULT
    if method not in ESTIMATORS:
        raise typer.BadParameter(f"{method}; accepted: {', '.join(ESTIMATORS)}", param_hint="--method")
    configure(level="warning")
    request = Request(seeds=options.seeds or 3, parts=options.parts or 8, method=method)
    history = history_of(config, request)
    if history is None:
        typer.echo(f"nothing to learn from: no shard in {config.paths.spool / 'archive'}", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    return history


def _tune(config: Config, given: "Given", options: Options, *, as_json: bool) -> None:
    from learnerd.walkforward.pool import Pool  # noqa: PLC0415
    from learnerd.walkforward.search import budget, search  # noqa: PLC0415
    from learnerd.walkforward.space import check_space, space_of  # noqa: PLC0415

    space, trials = space_of(config, given), options.tune or 1
    check_space(config, space)
    history = _history(config, options)
    total = budget(history, trials=trials)
    with Pool(_jobs(options)) as pool, progress(total, doing="searching", of="parts") as advance:
        found = search(history, space, trials=trials, run=functools.partial(pool.run, on_part=advance))
    _show_found(found, as_json=as_json)


def _jobs(options: Options) -> int:
    return options.jobs or len(os.sched_getaffinity(0))


def _plot(file: Path, found: "Comparison") -> None:
    try:
        from learnerd.walkforward.plot import write_plot  # noqa: PLC0415

        write_plot(file, found)
    except ImportError as error:
        raise LearnerdError(f"--plot needs matplotlib: install learnerd[demo] ({error})") from error


def _print_comparison(found: "Comparison") -> None:
    titles = ("settings", "return", "difference", "effective share", "verdict")
    rows = [
        (one.name, *_cells(standing, found.history.config.gate.min_ess))
        for one, standing in zip(found.alternatives, found.standings, strict=True)
    ]
    _print_table(titles, rows, to=sys.stdout)
    for line in _notes(found):
        typer.echo(line)


def _cells(one: "Standing", min_ess: float) -> tuple[str, ...]:
    difference = "" if one.difference is None else f"{one.difference:+}"
    share = f"{one.ess_fraction:.2f}" + (" !" if one.ess_fraction < min_ess else "  ")
    return (f"{one.value}", difference, share, one.verdict or "")


def _notes(found: "Comparison") -> list[str]:
    history, judged = found.history, found.judged
    episodes = sum(one.episodes for one in judged)
    played = sum(one.played for one in judged) / len(judged)
    sources = ", ".join(f"{n} {name}" for name, n in found.sources.items() if n)
    said = (
        f"{history.request.method}, discount {history.config.learner.gamma:g}",
        counted(len(history.seeds), "seed"),
        f"{len(judged)} of {len(history.parts)} parts judged before they were learned from",
        f"{episodes} episodes, which really earned {played:.4g}",
        f"log-probabilities: {sources}",
    )
    lines = ["; ".join(said), _intervals(len(found.alternatives) - 1)]
    if any(one.ess_fraction < history.config.gate.min_ess for one in found.standings):
        lines.append(
            f"! effective share below {history.config.gate.min_ess:g}: what was played tells little of these "
            "weights; the estimate is a guess, whatever its interval, and there is no verdict"
        )
    if len(history.seeds) == 1:
        lines.append("one seed: the intervals do not know how much another one would have changed")
    return lines + [
        f"{one.name}: {standing.unpublished} batches were not learned: their updates went beyond [stability]"
        for one, standing in zip(found.alternatives, found.standings, strict=True)
        if standing.unpublished
    ]


def _intervals(others: int) -> str:
    together = "; those of the differences hold all at once" if others > 1 else ""
    return f"± 95 % intervals over seeds and episodes{together}"


def _show_found(found: "Found", *, as_json: bool) -> None:
    """The fragment on standard output, to be kept in a file; the rest on standard error."""
    rows = [
        (one.alternative.name, f"{one.difference:+}", f"{one.ess_fraction:.2f}")
        for one in found.trials[:SHOWN_TRIALS]
    ]
    _print_table(("settings, best first", "difference", "effective share"), rows, to=sys.stderr)
    min_ess = found.history.config.gate.min_ess
    if found.standing.ess_fraction < min_ess:
        share = f"{found.standing.ess_fraction:.2f}, below {min_ess:g}"
        line = (
            f"! effective share of the best one where the search has not looked: {share}: a guess, no verdict"
        )
        typer.echo(line, err=True)
    if as_json:
        print_json({**found.to_json(), "fragment": fragment(found)})
    else:
        typer.echo(fragment(found), nl=False)


def fragment(found: "Found") -> str:
    """The best setting as a piece of a configuration, with what is known of it as comments."""
    from learnerd.cli.config import toml_of  # noqa: PLC0415

    best, request = found.best, found.history.request
    how = (
        f"{request.method}, discount {found.history.config.learner.gamma:g}, {counted(request.seeds, 'seed')}"
    )
    seen, unseen = counted(len(found.searched), "part"), counted(len(found.held_out), "part")
    lines = [
        f"# Difference in return from the configuration as it was ({how}):",
        f"#   {best.difference:+} on the {seen} searched: too good, as the best of {len(found.trials)}",
        f"#   {found.difference:+} on the newest {unseen}, which the search has not seen: {found.verdict}",
    ]
    tables: dict[str, list[str]] = {}
    for (table, key), value in best.alternative.values.items():
        tables.setdefault(table, []).append(f"{key} = {toml_of(value)}")
    text = [line for table, keys in tables.items() for line in (f"[{table}]", *keys)]
    if best.score <= 0.0 or found.verdict == "worse":
        lines.append("# It is not better for certain, so it stands here as a comment:")
        text = [f"# {line}" for line in text]
    return "\n".join([*lines, *text]) + "\n"


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, to: Any) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed for --json
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(titles):
        justify: Literal["left", "right"] = "right" if i and title != "verdict" else "left"
        table.add_column(title, justify=justify, no_wrap=i > 0, overflow="ellipsis" if i else "fold")
    for row in rows:
        table.add_row(*row)
    Console(file=to, highlight=False, emoji=False, markup=False, width=width_of(to)).print(table)
