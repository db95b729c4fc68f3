"""The drift benchmark: a world that changes again and again. Does the learner keep learning?

    python tests/benchmarks/drift.py [--changes 24] [--episodes 240] [--seeds 3] [--jobs N] [--out DIR]

CartPole-v1, whose four observations are shuffled and turned round after every so many episodes, and whose
two actions may change places: what was learned is wrong each time, and has to be learned again. The default
learner against the remedies for a loss of plasticity. Prints for each the mean return over all episodes, over
those of the first and of the last quarter of the changes, and what is left of the networks; writes a plot.
"""

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402
from staleness_learners import contender  # noqa: E402 - beside this file
from staleness_play import Player, VectorLanes  # noqa: E402

from policies.plasticity import plasticity, sample  # noqa: E402

TASK = "CartPole-v1"
BATCH = 8
REMEDIES = {
    "none": {},
    "l2_init": {"settings": {"l2_init": 1e-4}},
    "shrink_perturb": {"settings": {"shrink_perturb": 1e-3}},
    "layer_norm": {"policy": {"layer_norm": True}},
}


class ChangingLanes(VectorLanes):
    """CartPole with shuffled observations, and perhaps the actions exchanged."""

    def __init__(self, task, seed):
        super().__init__(task)
        self._rng = np.random.default_rng([seed, 3])
        self.change()

    def change(self):
        """Another order of the observations, the other or the same meaning of the actions."""
        self._order = self._rng.permutation(4)
        self._sign = self._rng.choice([-1.0, 1.0], 4).astype(np.float32)
        self._exchanged = bool(self._rng.integers(2))

    def reset(self, count, seed):
        return super().reset(count, seed)[:, self._order] * self._sign

    def step(self, live, action):
        obs, reward, terminated, truncated = super().step(live, 1 - action if self._exchanged else action)
        return obs[:, self._order] * self._sign, reward, terminated, truncated


def run(job, *, changes, episodes):
    """One remedy with one seed: (mean return of each batch [changes, batches], plasticity at the end)."""
    name, seed = job
    torch.set_num_threads(1)
    lanes = ChangingLanes(TASK, seed)
    learner = contender("learnerd", TASK, seed=seed, **REMEDIES[name])
    player = Player(TASK, seed=seed, lanes=lanes)
    means = np.zeros((changes, episodes // BATCH))
    for phase in means:
        for index in range(len(phase)):
            batch = player.play([(learner.version, learner.acting)] * BATCH)
            phase[index] = np.mean([episode.reward.sum() for episode in batch])
            learner.learn(batch)
        lanes.change()
    left = plasticity(learner.acting, sample(np.concatenate([episode.obs for episode in batch])))
    learner.close()
    return means, left


def table(results):
    """Markdown: one line a remedy, means over its seeds."""
    lines = [
        "| remedy | all | first quarter | last quarter | dormant units | effective rank | weight norm |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        means = np.array([means for means, _ in runs]).mean(axis=(0, 2))
        part = max(1, len(means) // 4)
        left = [left for _, left in runs]
        lines.append(
            f"| {name} | {means.mean():.0f} | {means[:part].mean():.0f} | {means[-part:].mean():.0f} "
            f"| {np.mean([one.dormant_fraction for one in left]):.1%} "
            f"| {np.mean([one.effective_rank for one in left]):.0f} "
            f"| {np.mean([one.weight_norm for one in left]):.1f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results, path):
    """Mean return within each phase, a line a remedy with the range of its seeds."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axis = plt.subplots(figsize=(9, 4))
    for name, runs in results.items():
        curves = np.array([means.mean(axis=1) for means, _ in runs])
        axis.plot(curves.mean(0), label=name)
        axis.fill_between(np.arange(curves.shape[1]), curves.min(0), curves.max(0), alpha=0.15)
    axis.set_xlabel("changes of the world")
    axis.set_ylabel("mean return between two changes")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(arguments=None):
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--changes", type=int, default=24)
    parser.add_argument("--episodes", type=int, default=240, help="between two changes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("drift"), metavar="DIR")
    options = parser.parse_args(arguments)
    jobs = [(name, seed) for name in REMEDIES for seed in range(options.seeds)]
    one = partial(run, changes=options.changes, episodes=options.episodes)
    context = multiprocessing.get_context("spawn")
    results = {name: [] for name in REMEDIES}
    with ProcessPoolExecutor(max_workers=options.jobs, mp_context=context) as pool:
        for (name, seed), result in zip(jobs, pool.map(one, jobs), strict=True):
            print(f"{name}, seed {seed}: {result[0].mean():.0f}", file=sys.stderr, flush=True)
            results[name].append(result)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "drift.md").write_text(table(results), encoding="utf-8")
    plot(results, options.out / "drift.png")
    print(table(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
