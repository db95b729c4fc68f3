"""The batch-size benchmark: the same 3,000 CartPole episodes in batches of 1, 10 and 100. Where does it end?

    python tests/benchmarks/batch_size.py [--episodes 3000] [--seeds 3] [--rule sqrt]

"recorded": one run's episodes are recorded with their log-probabilities, and fed to fresh learners in the
order in which they were played. "live": each learner plays its own, in batches of that size. Prints the mean
return of 100 episodes of each last version, and by how much the batch sizes differ.
"""

import argparse
import os
import sys

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy and torch are loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402
from staleness_learners import contender  # noqa: E402 - beside this file
from staleness_play import Player  # noqa: E402

TASK = "CartPole-v1"
SIZES = (1, 10, 100)
RECORDED_IN = 10
FINAL_EPISODES = 100
OTHER_SEEDS = 100  # the learner that recorded would follow its own steps exactly


def live(count, size, *, seed, settings):
    """Play and learn; (mean return of the last version, every episode)."""
    learner, player = contender("learnerd", TASK, seed=seed, settings=settings), Player(TASK, seed=seed)
    episodes = []
    while len(episodes) < count:
        fresh = player.play([(learner.version, learner.acting)] * size)
        learner.learn(fresh)
        episodes += fresh
    return _end(learner, player), episodes


def recorded(episodes, size, *, seed, settings):
    """Learn from episodes that another learner played; the mean return of the last version."""
    learner = contender("learnerd", TASK, seed=seed, settings=settings)
    for start in range(0, len(episodes), size):
        learner.learn(episodes[start : start + size])
    return _end(learner, Player(TASK, seed=seed + 1))


def _end(learner, player):
    final = float(np.mean(player.returns(learner.acting, FINAL_EPISODES)))
    learner.close()
    return final


def main(arguments=None):
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rule", default="sqrt", help="lr_scaling")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = {"lr_scaling": options.rule}
    finals = {("live", size): [] for size in SIZES} | {("recorded", size): [] for size in SIZES}
    for seed in range(options.seeds):
        for size in SIZES:
            final, episodes = live(options.episodes, size, seed=seed, settings=settings)
            finals["live", size].append(final)
            if size == RECORDED_IN:
                recording = episodes
        for size in SIZES:
            final = recorded(recording, size, seed=seed + OTHER_SEEDS, settings=settings)
            finals["recorded", size].append(final)
    print("| episodes | batch | mean return of the last version, each seed | mean |\n|---|---|---|---|")
    for (kind, size), numbers in finals.items():
        each = ", ".join(f"{number:.0f}" for number in numbers)
        print(f"| {kind} | {size} | {each} | {np.mean(numbers):.1f} |")
    for kind in ("live", "recorded"):
        means = [np.mean(finals[kind, size]) for size in SIZES]
        print(f"{kind}: the lowest mean is {100 * (1 - min(means) / max(means)):.1f} % below the highest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
