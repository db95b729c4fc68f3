"""Off-policy estimates against the environment: do they rank CartPole policies as their true returns do?

    python tests/benchmarks/evaluation.py [--seeds 3] [--updates 44] [--episodes 120]

Twelve versions of one training run are estimated from three logs: one of a version in the middle, one of
that and the versions beside it, and one of all. Reported are Spearman's rank correlation with the true mean
returns, the mean absolute error, and how often the sign of V(later) - V(earlier) is right, for versions 4
to 16 updates apart, from the episodes of the earlier one.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from staleness_learners import Ours
from staleness_play import Player

from experience.collate import collate
from policies.evaluation import ESTIMATORS, compare, evaluate
from policies.evaluation.bootstrap import Bootstrap
from policies.evaluation.logged import Logged, PolicyTarget

TASK = "CartPole-v1"
POLICIES = 12
TRUE_EPISODES = 100
BATCH = 8
FEW = Bootstrap(replicates=2)
"""Only the values are compared here; what the intervals cover is another measurement."""


def train(seed, updates):
    """Versions of one run, evenly spaced, with their numbers of updates."""
    learner, player = Ours(TASK, seed=seed, settings={}), Player(TASK, seed=seed)
    kept = {round(i * updates / (POLICIES - 1)): None for i in range(POLICIES)}
    for update in range(updates + 1):
        if update in kept:
            kept[update] = learner.acting
        learner.learn(player.play([(learner.version, learner.acting)] * BATCH))
    learner.close()
    return kept


def logs(policies, episodes, seed):
    """Episodes of one version, of three neighbors, of all."""
    player, numbers = Player(TASK, seed=seed + 1000), list(policies)
    middle = len(numbers) // 2
    chosen = {"one": numbers[middle : middle + 1], "three": numbers[middle - 1 : middle + 2], "all": numbers}
    return {
        name: player.play([(n, policies[n]) for n in some for _ in range(episodes // len(some))])
        for name, some in chosen.items()
    }


def logged(episodes, policy, gamma):
    batch = collate(episodes, observation_shape=policy.spec.observation_shape)
    return Logged.of(batch, PolicyTarget(policy), gamma=gamma)


def spearman(one, other):
    """Rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def ranks(values):
    values = np.asarray(values)
    return np.array([(values < value).sum() + 0.5 * ((values == value).sum() - 1) for value in values])


def signs(policies, truth, method, *, seed, gamma, episodes=4 * BATCH):
    """(right, all) of V(later) - V(earlier) for pairs 4 to 16 updates apart whose true returns differ."""
    player, right, count = Player(TASK, seed=seed + 2000), 0, 0
    for earlier in policies:
        played = player.play([(earlier, policies[earlier])] * episodes)
        old = logged(played, policies[earlier], gamma)
        for later in policies:
            if 4 <= later - earlier <= 16 and abs(truth[later] - truth[earlier]) > 5.0:
                new = logged(played, policies[later], gamma)
                found = compare(new, old, method=method, bootstrap=FEW).value
                right += (found > 0) == (truth[later] > truth[earlier])
                count += 1
    return right, count


def run(seed, *, updates, episodes, gamma, methods):
    """Rows (log, method, correlation, error, effective share) and sign counts by method."""
    policies = train(seed, updates)
    print(f"seed {seed}: trained", flush=True)
    player = Player(TASK, seed=seed + 500)
    truth = {n: float(np.mean(player.returns(policy, TRUE_EPISODES))) for n, policy in policies.items()}
    print(f"  true returns {[round(value) for value in truth.values()]}", flush=True)
    rows = []
    for name, played in logs(policies, episodes, seed).items():
        for method in methods:
            found = [
                evaluate(logged(played, policy, gamma), method=method, bootstrap=FEW)
                for policy in policies.values()
            ]
            values = [one.value for one in found]
            true = list(truth.values())
            error = float(np.abs(np.array(values) - true).mean())
            ess = float(np.mean([one.ess_fraction for one in found]))
            print(f"  {name} {method}: {[round(value) for value in values]}", flush=True)
            rows.append((name, method, spearman(values, true), error, ess))
    counts = {m: signs(policies, truth, m, seed=seed, gamma=gamma) for m in methods}
    return truth, rows, counts


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=44)
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--methods", default=",".join(ESTIMATORS))
    options = parser.parse_args()
    methods, found = options.methods.split(","), []
    for seed in range(options.seeds):
        began = time.perf_counter()
        result = run(
            seed,
            updates=options.updates,
            episodes=options.episodes,
            gamma=options.gamma,
            methods=methods,
        )
        found.append(result)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    print_tables(found, methods)


def print_tables(found, methods):
    print("\nlog    method   rank correlation (each seed)      mean abs. error   effective share")
    for i, (log, method, *_) in enumerate(found[0][1]):
        cells = [rows[i] for _, rows, _ in found]
        each = " ".join(f"{cell[2]:6.2f}" for cell in cells)
        error, ess = (np.mean([cell[k] for cell in cells]) for k in (3, 4))
        print(f"{log:6s} {method:7s} {each}   {error:14.1f}   {ess:14.2f}")
    print("\nsign of V(later) - V(earlier), 4 to 16 updates apart, from 32 episodes of the earlier one:")
    for method in methods:
        right, count = (sum(counts[method][k] for _, _, counts in found) for k in (0, 1))
        print(f"  {method:7s} {right} of {count}")


if __name__ == "__main__":
    main()
