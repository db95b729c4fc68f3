"""The soak: months in an hour. ``python tests/soak/run.py --minutes 60`` prints one page and writes JSON.

A daemon process, clients and an online learner as processes, all through files; meanwhile kills, stops,
reloads, freezes, bursts, steps of the clock, full disks, and bad files of every kind. Then every episode is
accounted for. What is done when follows from ``--seed``; ``--plan`` shows it. Exit code 1: a promise broke.

The first half ends the daemon again and again; in the second half it lives on, so that its memory is watched.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "campaign"), str(FOLDER.parents[1])]

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is loaded

from ground import Ground, with_a_namespace  # noqa: E402 - the path comes first
from plan import plan  # noqa: E402
from soak import Soak  # noqa: E402


def page(result: dict) -> str:
    """The report, on one page."""
    account, memory = result["account"], result["memory"]
    lines = [
        f"soak of {result['minutes']:g} minutes, seed {result['seed']}",
        "",
        f"what was done    {', '.join(f'{n} x {kind}' for kind, n in sorted(result['done'].items()))}",
        f"not tried        {'; '.join(result['missing']) or 'nothing: all of it was done'}",
        f"deposited        {account.get('files')} files, {account.get('episodes_good')} good episodes",
        f"published online {account.get('episodes_online')} more episodes",
        f"learned          {account.get('learned')}, in {account.get('versions')} versions",
        f"refused          {account.get('refused')}",
        f"quarantined      {account.get('quarantined')}",
        f"memory           {memory}",
        f"alarms seen      {', '.join(sorted(result['alarms'])) or 'none'}",
        "",
    ]
    wrong = result["violations"]
    verdict = "every promise held" if not wrong else f"{len(wrong)} VIOLATIONS"
    return "\n".join([*lines, verdict, *(f"  - {text[:2000]}" for text in wrong[:30])])


def carry_out(folder: Path, *, seed: int, minutes: float) -> dict:
    """Run it in ``folder``, and give the result as it is written to the JSON file."""
    ground = Ground(folder)
    run = Soak(ground, seed=seed, minutes=minutes)
    try:
        run.run()
    except Exception:  # noqa: BLE001 - told like every other violation
        run.violations.append(traceback.format_exc())
    finally:
        run.close()
        if run.violations and ground.disk is not None:
            subprocess.run(["cp", "-a", ground.disk.folder, folder / "site"], check=False)
        ground.close()
    return {
        "schema": 1,
        "seed": seed,
        "minutes": minutes,
        "done": dict(run.done),
        "missing": ground.missing,
        "alarms": dict(run.alarms),
        "account": run.figures.get("account", {}),
        "memory": run.figures.get("memory", {}),
        "violations": run.violations,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak.json"), help="the result as JSON")
    parser.add_argument("--keep", type=Path, help="a new folder for everything; default: a temporary one")
    parser.add_argument("--plan", action="store_true", help="show what would be done, and end")
    options = parser.parse_args()
    if options.plan:
        print(*plan(options.seed, options.minutes), sep="\n")
        return 0
    with_a_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # its processes end with it
    folder = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"soak of {options.minutes:g} minutes with seed {options.seed} in {folder}", flush=True)
    result = carry_out(folder, seed=options.seed, minutes=options.minutes)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(page(result))
    if options.keep is None and not result["violations"]:
        shutil.rmtree(folder)
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
