"""Cells of the staleness benchmark, and what happens in one of them."""

import itertools
import math
import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from staleness_learners import contender
from staleness_play import Player

LAGS = (0, 4, 16, 64)
REFERENCE_LAG = 16
BATCH = 8
LARGEST_BATCH = 100
VARYING = "1..100"
FINAL_EPISODES = 100

BATCHES = {"CartPole-v1": 150, "Acrobot-v1": 80}
BATCHES_AT_64 = {"CartPole-v1": 200, "Acrobot-v1": 110}
FLOOR = {"CartPole-v1": 0.0, "Acrobot-v1": -500.0}
RISEN = 50.0
"""Above the floor, in returns: a tenth of what both tasks span. Who never got so far has nothing to lose."""
PEERS = ("ppo", "sb3", "reinforce")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the table, but for the seeds.

    Attributes:
        task: a Gymnasium id.
        learner: a contender's name.
        lag: versions between the one that plays and the newest one.
        mixed: whether each episode's lag is drawn from a geometric distribution with this mean.
        batches: how many episodes, or VARYING: log-uniform.
        logs: what the client notes: "logged", "version" or "nothing".
        online: whether an online learner saves to the same store between any two saves of the daemon.
    """

    task: str
    learner: str
    lag: int
    mixed: bool = False
    batches: str = "8"
    logs: str = "logged"
    online: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one seed of a cell gave.

    Attributes:
        final: mean return of 100 episodes of the last version.
        collapsed: whether the mean of 100 training episodes ever fell below half of its best before, above
            the task's worst return.
        episodes, returns: the training curve: episodes so far, mean return of each batch.
        steps_to_475: environment steps until the mean of 100 training episodes reached 475; NaN for never.
        seconds: of the whole run; ``learning_s`` without playing.
    """

    cell: Cell
    seed: int
    final: float
    collapsed: bool
    episodes: list
    returns: list
    steps_to_475: float
    seconds: float
    learning_s: float


def default_cells():
    """Every k and task for all; from k = 16 the other factors one at a time, and those asked for together."""
    cells = []
    for task in BATCHES:
        cells += [Cell(task=task, learner=name, lag=k) for name in ("learnerd", *PEERS) for k in LAGS]
        start = Cell(task=task, learner="learnerd", lag=REFERENCE_LAG)
        factors = [
            {"mixed": True},
            {"batches": VARYING},
            {"mixed": True, "batches": VARYING},
            {"mixed": True, "batches": VARYING, "online": True},
            {"online": True},
            {"logs": "version"},
            {"logs": "nothing"},
        ]
        cells += [replace(start, **factor) for factor in factors]
    start = Cell(task="CartPole-v1", learner="learnerd", lag=0, logs="nothing")
    return [*cells, start, replace(start, lag=4)]


def full_cells():
    """The whole cross; an online learner needs a store, which the peers do not have."""
    factors = itertools.product(
        BATCHES,
        ("learnerd", *PEERS),
        LAGS,
        (False, True),
        ("8", VARYING),
        ("logged", "version", "nothing"),
        (False, True),
    )
    names = ("task", "learner", "lag", "mixed", "batches", "logs", "online")
    cells = [Cell(**dict(zip(names, values, strict=True))) for values in factors]
    return [cell for cell in cells if not (cell.online and cell.learner == "sb3")]


def run(cell, seed, settings=None, policy=None, *, until_475=False):
    """Play and learn until the cell's batches are used up, or until the mean return is 475."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    began = time.perf_counter()
    learner = contender(cell.learner, cell.task, seed=seed, settings=settings, policy=policy)
    player, online = (Player(cell.task, seed=seed + 1000 * i, logs=cell.logs) for i in (0, 1))
    rng = np.random.default_rng([seed, 2])
    past, curve, learning_s = [(learner.version, learner.acting)], Curve(cell.task), 0.0
    for _ in range(_budget(cell)):
        if until_475 and curve.steps_to_475 < math.inf:
            break
        episodes = player.play([past[-1 - lag] for lag in _lags(cell, rng, len(past))])
        curve.add(episodes)
        fresh = online.play([past[-1]] * BATCH) if cell.online else ()
        start = time.perf_counter()
        learner.learn(episodes, **({"online": fresh} if cell.online else {}))
        learning_s += time.perf_counter() - start
        past.append((learner.version, learner.acting))
    final = float(np.mean(player.returns(learner.acting, FINAL_EPISODES)))
    learner.close()
    return Result(
        cell=cell,
        seed=seed,
        final=final,
        collapsed=curve.collapsed,
        episodes=curve.counts,
        returns=curve.means,
        steps_to_475=curve.steps_to_475,
        seconds=time.perf_counter() - began,
        learning_s=learning_s,
    )


def _budget(cell):
    return (BATCHES_AT_64 if cell.lag == max(LAGS) else BATCHES)[cell.task]


def _lags(cell, rng, versions):
    """One lag for each episode of the next batch, as far back as there are versions."""
    varies = cell.batches == VARYING
    count = int(math.exp(rng.uniform(0.0, math.log(LARGEST_BATCH + 1)))) if varies else int(cell.batches)
    lags = rng.geometric(1.0 / (cell.lag + 1.0), count) - 1 if cell.mixed else np.full(count, cell.lag)
    return np.minimum(lags, versions - 1).tolist()


class Curve:
    """Returns of the training episodes."""

    def __init__(self, task):
        self._floor = FLOOR[task]
        self._returns, self._steps = [], []
        self.counts, self.means = [], []

    def add(self, episodes):
        returns = [float(episode.reward.sum()) for episode in episodes]
        self._returns += returns
        self._steps += [episode.n_steps for episode in episodes]
        self.counts.append(len(self._returns))
        self.means.append(float(np.mean(returns)))

    @property
    def collapsed(self):
        """Half is meant above the task's worst return, and counts once the best has risen above that."""
        means = self._means_of_100() - self._floor
        best = np.maximum.accumulate(means)
        return bool(((means < 0.5 * best) & (best >= RISEN)).any())

    @property
    def steps_to_475(self):
        """Environment steps, NaN while it is not reached."""
        reached = np.flatnonzero(self._means_of_100() >= 475.0)
        return float(np.cumsum(self._steps)[reached[0] + 99]) if len(reached) else math.nan

    def _means_of_100(self):
        if len(self._returns) < 100:
            return np.zeros(0)
        return np.convolve(self._returns, np.full(100, 0.01), "valid")
