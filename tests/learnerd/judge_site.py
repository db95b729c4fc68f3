"""A task whose returns are known, and the daemon's cycle over it with updates that are given."""

import uuid
from dataclasses import dataclass, field

import numpy as np

from experience.episode import Episode
from experience.spool import Spool
from learnerd.behavior import BehaviorCache
from learnerd.config import Config
from learnerd.judge import Judge
from policies.behavior import log_probs
from policies.checkpoint import Delta, LedgerEntry
from policies.distributions import categorical_sample
from policies.forward import policy_outputs
from policies.initial import initial_checkpoint
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(2,), normalize=False)
STEPS = 10
BATCH = 8
TOWARD = np.array([[-1.0, 0.0], [1.0, 0.0]])
"""Of the last layer: more of it is a policy that is right more often."""


def start(of_skill=0.0):
    first = initial_checkpoint(SPEC, seed=0)
    weights = {name: np.zeros_like(array) for name, array in first.weights.items()}
    weights["policy.1.weight"] = (of_skill * TOWARD).astype(np.float32)
    weights["policy.0.weight"] = np.array([[3.0, 0.0], [0.0, 0.0]], np.float32)
    return first.__class__(**{**first.__dict__, "weights": weights})


def skill(checkpoint):
    return float(checkpoint.weights["policy.1.weight"][1, 0])


def play(policy, version, rng, *, logged=True):
    """Ten steps; 1 for each in which action 1 is taken just where the first number is positive."""
    obs = rng.normal(size=(STEPS + 1, 2)).astype(np.float32)
    action = categorical_sample(policy_outputs(policy.weights, policy.spec, policy.normalizer, obs[:-1]), rng)
    return Episode(
        episode_id=uuid.uuid4().hex,
        obs=obs,
        action=action,
        reward=(action == (obs[:-1, 0] > 0)).astype(np.float64),
        logp=log_probs(policy, obs[:-1], action) if logged else None,
        terminated=True,
        truncated=False,
        policy_version=version,
        ended_at=1000.0,
    )


@dataclass
class Site:
    """The daemon's cycle without training: updates are given."""

    folder: object
    rules: dict
    seed: int = 0
    logged: bool = True
    first_skill: float = 0.0
    batch_size: int = BATCH
    rulings: list = field(default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.open()
        self.head = self.store.publish(
            Delta(weights={}),
            base=start(self.first_skill),
            writer="daemon",
            episodes=[],
            acting=self.judge.initial(),
        )
        self.judge.begin(self.head)

    def open(self):
        self.store = CheckpointStore(self.folder / "state")
        self.spool = Spool(self.folder / "spool", writer="daemon")
        self.behavior = BehaviorCache(self.store)
        config = Config.model_validate({"gate": self.rules})
        self.judge = Judge(config, store=self.store, spool=self.spool, behavior=self.behavior)

    def restart(self):
        self.open()
        self.store.repair_current()
        self.judge.begin(self.store.head())

    def batch(self):
        acting = self.store.current() or 1
        return [
            play(self.behavior(acting), acting, self.rng, logged=self.logged) for _ in range(self.batch_size)
        ]

    def cycle(self, change):
        """One batch, one update; returns the version."""
        episodes, head = self.batch(), self.store.head()
        ruling = self.judge.look(head, episodes)
        if ruling.start_over is not None:
            self.rulings.append(ruling)
            reason = ruling.verdict.reason
            self.store.rollback(ruling.start_over, writer="daemon", reason=reason, record=ruling.record())
            self.judge.started_over()
            head = self.store.head()
            ruling = self.judge.look(head, episodes)
        self.rulings.append(ruling)
        published = self.store.publish(
            Delta(weights={"policy.1.weight": change * TOWARD}, counters={"updates": 1}),
            base=head,
            writer="daemon",
            episodes=[LedgerEntry(key=e.key, row_sha256=e.row_sha256) for e in episodes],
            record=ruling.record(),
            acting=ruling.acting,
        )
        self.spool.archive(published.version, episodes, published_at=1000.0, note="")
        self.judge.published(published, episodes, ruling)
        return published

    def acting_skill(self):
        return skill(self.store.load(self.store.current()))

    def outcomes(self):
        return [ruling.verdict.outcome for ruling in self.rulings if ruling.verdict is not None]
