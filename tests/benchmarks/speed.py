"""The benchmarks of speed: one row a figure, with its target.

    python tests/benchmarks/speed.py [--only TEXT] [--small] [--out DIR]

Ratios are taken side by side in one run, so that a busy machine slows both sides down. Prints a Markdown
table and, below it, the parts of each figure; writes both and ``speed.json`` to DIR. A benchmark is a module
beside this file with a function ``measure(*, small) -> list[Figure]``, and one line in MODULES.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded

MODULES = (
    "speed_npz",
    "speed_tables",
    "speed_returns",
    "speed_update",
    "speed_act",
    "speed_publish",
    "speed_status",
    "speed_latency",
    "speed_neighbor",
    "speed_rest",
    "speed_growth",
)


def table(figures):
    """Markdown: one line a figure."""
    lines = ["| work | measured | target | |", "|---|---|---|---|"]
    for one in figures:
        verdict = "reached" if one.reached else "missed"
        lines.append(f"| {one.work} | {one.value:.3g} {one.unit} | {one.target} | {verdict} |")
    return "\n".join(lines) + "\n"


def parts(figures):
    """Markdown: what each figure is made of."""
    lines = [
        f"- {one.work}: " + ", ".join(f"{name} {value:.3g}" for name, value in one.parts.items())
        for one in figures
        if one.parts
    ]
    return "\n".join(lines) + "\n"


def document(figures):
    """What speed.json holds."""
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    rows = [{**asdict(one), "target": one.target, "reached": one.reached} for one in figures]
    return {"machine": machine, "figures": rows}


def measured(options):
    """The figures of every module that was asked for."""
    figures = []
    for name in MODULES:
        if options.only in name:
            print(name, file=sys.stderr, flush=True)
            figures += importlib.import_module(name).measure(small=options.small)
    return figures


def main(arguments=None):
    """Run the benchmarks; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="modules whose name contains TEXT")
    parser.add_argument("--small", action="store_true", help="minutes become seconds, figures become rough")
    parser.add_argument("--out", type=Path, default=Path("speed"), metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        figures = measured(options)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: it is a peer, pip install 'learnerd[bench]'")
    options.out.mkdir(parents=True, exist_ok=True)
    text = f"{table(figures)}\n{parts(figures)}"
    (options.out / "speed.md").write_text(text, encoding="utf-8")
    (options.out / "speed.json").write_text(json.dumps(document(figures), indent=1) + "\n", encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main())
