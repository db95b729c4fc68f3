"""The staleness benchmark: what do learners make of episodes that old versions played?

    python tests/benchmarks/staleness.py [--full] [--seeds 5] [--jobs N] [--only TEXT] [--out DIR]

CartPole-v1 and Acrobot-v1, played by the version of k updates ago (or by a mixture of versions), in batches
of one size or of 1 to 100 episodes, with or without logged log-probabilities, alone or beside an online
learner that saves to the same store. Every contender is fed files of the same kind: this learner, plain
REINFORCE, plain PPO against the logged log-probabilities, and Stable-Baselines3's PPO update. Prints a table,
and writes it with a plot and all curves to DIR. The default is 240 runs of 7 to 85 s, by their sum half
an hour on two cores; --full is the whole cross of these factors.
"""

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded

import numpy as np  # noqa: E402
import staleness_cells  # noqa: E402 - beside this file
import staleness_on_policy  # noqa: E402

GOALS = {"CartPole-v1": {0: (490, 450), 4: (490, 450), 16: (490, 450), 64: (470, 420)}}
GOALS["Acrobot-v1"] = dict.fromkeys(staleness_cells.LAGS, (-92, -105))
GOAL_UNLOGGED = (450, -np.inf)
ON_POLICY = "CartPole-v1 on-policy"


def goal(cell):
    """(final mean, worst seed) that this learner is to reach; None where no figure is asked for."""
    if cell.learner != "learnerd":
        return None
    if cell.logs == "nothing":
        wanted = cell.task == "CartPole-v1" and cell.lag <= 4 and cell.batches == "8" and not cell.mixed
        return GOAL_UNLOGGED if wanted else None
    return GOALS[cell.task][cell.lag]


def table(results):
    """Markdown: one line a cell, over its seeds."""
    lines = [
        "| task | learner | k | lag | batch | logged | writers | mean | worst | goal | collapsed | s a run |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, runs in _by_cell(results).items():
        finals = [run.final for run in runs]
        wanted = goal(cell)
        missed = wanted and (np.mean(finals) < wanted[0] or min(finals) < wanted[1])
        shown = "" if wanted is None else f"{'missed: ' if missed else ''}{wanted[0]:g} / {wanted[1]:g}"
        cells = (
            *(cell.task, cell.learner, cell.lag, "mixed" if cell.mixed else "fixed", cell.batches, cell.logs),
            *("2" if cell.online else "1", f"{np.mean(finals):.0f}", f"{min(finals):.0f}", shown),
            f"{sum(run.collapsed for run in runs)} of {len(runs)}",
            f"{np.mean([run.seconds for run in runs]):.0f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _by_cell(results):
    groups = {}
    for result in results:
        groups.setdefault(result.cell, []).append(result)
    return groups


def plot(results, path):
    """Training curves: a panel for each condition, a line for each learner with the range of its seeds."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels = {}
    for cell, runs in _by_cell(results).items():
        panels.setdefault((cell.task, _condition(cell)), []).append((cell.learner, runs))
    columns = 4
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, ((task, condition), lines) in zip(axes.flat, panels.items(), strict=False):
        for name, runs in lines:
            _line(axis, name, runs)
        axis.set_title(f"{task}, {condition}", fontsize=9)
        axis.legend(fontsize=7)
    figure.supxlabel("episodes")
    figure.supylabel("mean return of the training episodes")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _condition(cell):
    parts = [f"k = {cell.lag}{' mixed' if cell.mixed else ''}"]
    parts += [f"batches {cell.batches}"] if cell.batches != "8" else []
    parts += (
        [f"{cell.logs} logged".replace("version logged", "only versions")] if cell.logs != "logged" else []
    )
    parts += ["two writers"] if cell.online else []
    return ", ".join(parts)


def _line(axis, name, runs):
    grid = np.linspace(0, runs[0].episodes[-1], 60)
    curves = np.array([np.interp(grid, run.episodes, run.returns) for run in runs])
    axis.plot(grid, curves.mean(0), label=name, linewidth=1.2)
    axis.fill_between(grid, curves.min(0), curves.max(0), alpha=0.15)


def measure(cells, *, seeds, jobs, tell):
    """Run every cell with every seed in ``jobs`` processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        waiting = [pool.submit(staleness_cells.run, cell, seed) for cell in cells for seed in range(seeds)]
        results = []
        for done, future in enumerate(as_completed(waiting), start=1):
            results.append(future.result())
            tell(done, len(waiting), results[-1])
    order = {cell: index for index, cell in enumerate(cells)}
    return sorted(results, key=lambda result: (order[result.cell], result.seed))


def on_policy(seeds, jobs):
    """A sentence: environment steps to 475 of this learner and of Stable-Baselines3's tuned PPO."""
    learners = (
        staleness_on_policy.ours,
        staleness_on_policy.ours_when_fresh,
        staleness_on_policy.stable_baselines,
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        default, fresh, theirs = (list(pool.map(learner, range(seeds))) for learner in learners)
    return (
        "Environment steps until 100 on-policy CartPole episodes have a mean of 475: "
        f"the defaults {_thousands(default)}; min_episodes = 2 and epochs = 10 {_thousands(fresh)}; "
        f"Stable-Baselines3's tuned PPO {_thousands(theirs)}: "
        f"{_ratio(default, theirs)} and {_ratio(fresh, theirs)} times as many.\n"
    )


def _ratio(steps, reference):
    return f"{np.mean(steps) / np.mean(reference):.2f}"


def _thousands(steps):
    return f"{np.mean(steps) / 1000:.0f} k ({min(steps) / 1000:.0f} to {max(steps) / 1000:.0f} k)"


def _tell(done, total, result):
    cell = result.cell
    what = f"{cell.task} {cell.learner}, {_condition(cell)}, seed {result.seed}"
    print(
        f"{done} of {total}: {what}: {result.final:.0f} ({result.seconds:.0f} s)", file=sys.stderr, flush=True
    )


def main(arguments=None):
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the whole cross of all factors: many hours")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose description contains it")
    parser.add_argument("--out", type=Path, default=Path("staleness"), metavar="DIR")
    options = parser.parse_args(arguments)
    cells = staleness_cells.full_cells() if options.full else staleness_cells.default_cells()
    cells = [c for c in cells if options.only in f"{c.task} {c.learner}, {_condition(c)}"]
    results = measure(cells, seeds=options.seeds, jobs=options.jobs, tell=_tell)
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(results)
    if options.only in ON_POLICY:
        text += "\n" + on_policy(options.seeds, options.jobs)
    (options.out / "staleness.md").write_text(text, encoding="utf-8")
    document = [asdict(result) for result in results]
    (options.out / "staleness.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    plot(results, options.out / "staleness.png")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
