"""The update benchmark: how fast a batch is learned from, beside others and beside the bare matrix products.

    python tests/benchmarks/update.py [--rounds 7] [--json update.json]

15 -> 64 -> 64 networks on a CPU with one thread. "floor" is the matrix products of the same update alone, in
numpy; an update counts in full, with its preparation. Times are CPU seconds of this process, contenders take
turns, and a ratio is the median over the rounds of that within a round: a busy machine slows them all.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded

import torch  # noqa: E402
from update_contenders import (  # noqa: E402 - beside this file
    EPOCHS,
    Reinforce,
    batch_of,
    furthest,
    ours,
    products,
    sb3,
    settings_alike,
)

from policies.settings import LearnerSettings  # noqa: E402

OURS = "learnerd"
AS_CLOSE_AS = 1e-6
TEXTBOOK = LearnerSettings(algorithm="reinforce", baseline="ema", epochs=1, minibatches=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of update.

    Attributes:
        name: as printed.
        contenders: name -> a function that makes it ready: (samples, what to time). A sample is one step in
            one epoch.
        goals: name of a contender -> how many times as fast we want to be at least.
    """

    name: str
    contenders: dict
    goals: dict


def cases(*, steps=2048, episodes=1000):
    """Return every case; the arguments are for smaller ones than are worth measuring."""
    return [
        _alike("PPO, minibatch 64", steps, 64, {"sb3": 7.0, "floor": 1 / 3}),
        _alike("PPO, minibatch 2,048", 4 * steps, steps, {"sb3": 2.2, "floor": 1 / 2}),
        _defaults(steps),
        _reinforce(10, {"torch, batched": 3.0, "torch, step by step": 30.0}),
        _reinforce(episodes, {"torch, batched": 3.0, "torch, step by step": 30.0}),
    ]


def _alike(name, steps, minibatch, goals):
    batch, minibatches = batch_of(8, steps // 8), steps // minibatch
    settings, samples = settings_alike(minibatches), steps * EPOCHS
    product = products(minibatch, heads=(2, 1))
    return Case(
        name=name,
        contenders={
            OURS: lambda: (samples, ours(batch, settings)[1]),
            "learnerd, torch": lambda: (samples, ours(batch, settings, path="torch")[1]),
            "sb3": lambda: (samples, sb3(batch, minibatches)[1]),
            "floor": lambda: (samples, lambda: product(EPOCHS * minibatches)),
        },
        goals=goals,
    )


def _defaults(steps):
    batch, settings, theirs = batch_of(8, 500), LearnerSettings(), batch_of(8, steps // 8)
    samples = batch.n_steps * settings.epochs
    return Case(
        name="default learner, 8 episodes of 500 steps",
        contenders={
            OURS: lambda: (samples, ours(batch, settings)[1]),
            "learnerd, torch": lambda: (samples, ours(batch, settings, path="torch")[1]),
            "sb3, minibatch 64": lambda: (steps * EPOCHS, sb3(theirs, steps // 64)[1]),
        },
        goals={"sb3, minibatch 64": 6.0},
    )


def _reinforce(episodes, goals):
    batch, few = batch_of(episodes, 200), batch_of(10, 200)  # a graph of 1,000 episodes would not fit
    product = products(batch.n_steps, heads=(2,))
    return Case(
        name=f"REINFORCE, {episodes:,} episodes of 200 steps",
        contenders={
            OURS: lambda: (batch.n_steps, ours(batch, TEXTBOOK)[1]),
            "learnerd, torch": lambda: (batch.n_steps, ours(batch, TEXTBOOK, path="torch")[1]),
            "torch, batched": lambda: (batch.n_steps, Reinforce(batch).batched),
            "torch, step by step": lambda: (few.n_steps, Reinforce(few).step_by_step),
            "floor": lambda: (batch.n_steps, lambda: product(1)),
        },
        goals=goals,
    )


def measure(case, rounds):
    """Let the contenders take turns; name -> samples a CPU second in each round, the first one left out."""
    rates = {name: [] for name in case.contenders}
    for _ in range(rounds + 1):
        for name, make in case.contenders.items():
            samples, run = make()
            began = time.process_time()
            run()
            rates[name].append(samples / max(time.process_time() - began, 1e-9))
    return {name: each[1:] for name, each in rates.items()}


def line(case, name, rates):
    """One line of the table: how fast a contender is, and how many times as fast we are."""
    ratio = statistics.median(mine / other for mine, other in zip(rates[OURS], rates[name], strict=True))
    goal = case.goals.get(name)
    verdict = "" if goal is None else f"{'reached' if ratio >= goal else 'missed'}: {goal:.3g}"
    own = "" if name == OURS else f"{ratio:.2f}"
    return f"| {case.name} | {name} | {statistics.median(rates[name]) / 1000:.0f} k | {own} | {verdict} |"


def table(results):
    """Return the table of (case, rates) pairs."""
    lines = [line(case, name, rates) for case, rates in results for name in rates]
    head = f"| update | who | samples/s | {OURS} is so many times as fast | goal |"
    return "\n".join([head, "|---|---|---|---|---|", *lines]) + "\n"


def main(arguments=None):
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("update.json"), metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    apart = furthest(batch_of(8, 256), 32)
    print(f"parameters after a whole train(), minibatch 64: at most {apart:.1e} from Stable-Baselines3's")
    results = []
    for case in cases():
        results.append((case, measure(case, options.rounds)))
        print(f"{case.name}: measured", file=sys.stderr, flush=True)
    document = {"apart": apart, "rates": {case.name: rates for case, rates in results}}
    options.json.write_text(json.dumps(document) + "\n", encoding="utf-8")
    print(table(results), end="")
    return 0 if apart <= AS_CLOSE_AS else 1


if __name__ == "__main__":
    sys.exit(main())
