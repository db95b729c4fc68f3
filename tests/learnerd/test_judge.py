"""The judge on a task whose returns are known: a bad update never goes live, a good one does in time."""

import itertools
import uuid
from dataclasses import dataclass, field

import numpy as np
import pytest

from experience.archive_reader import ArchiveReader
from experience.episode import Episode
from experience.spool import Spool
from learnerd.behavior import BehaviorCache
from learnerd.config import Config
from learnerd.judge import FAILED, PASSED, WAITING, Judge, thresholds
from policies.acting import acting_version
from policies.behavior import log_probs
from policies.checkpoint import Delta, LedgerEntry
from policies.distributions import categorical_sample
from policies.forward import policy_outputs
from policies.initial import initial_checkpoint
from policies.rollback import Rejected
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(2,), normalize=False)
STEPS = 10
BATCH = 8
TOWARD = np.array([[-1.0, 0.0], [1.0, 0.0]])
"""Of the last layer: more of it is a policy that is right more often."""


def start():
    first = initial_checkpoint(SPEC, seed=0)
    weights = {name: np.zeros_like(array) for name, array in first.weights.items()}
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
    rulings: list = field(default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.open()
        self.head = self.store.publish(
            Delta(weights={}), base=start(), writer="daemon", episodes=[], acting=self.judge.initial()
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
        return [play(self.behavior(acting), acting, self.rng, logged=self.logged) for _ in range(BATCH)]

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


@pytest.fixture
def site(tmp_path):
    numbers = itertools.count()

    def build(mode="enforce", seed=0, *, logged=True, **rules):
        folder = tmp_path / str(next(numbers))
        return Site(folder, {"mode": mode, **rules}, seed, logged)

    return build


def test_looks_are_few_and_the_last_is_at_the_limit():
    rules = Config.model_validate({"gate": {"min_episodes": 32, "max_held_episodes": 256}}).gate
    assert thresholds(rules) == [32, 64, 128, 256]
    rules = Config.model_validate({"gate": {"min_episodes": 10, "max_held_episodes": 50}}).gate
    assert thresholds(rules) == [10, 20, 40, 50]
    rules = Config.model_validate({"gate": {"min_episodes": 16, "max_held_episodes": 16}}).gate
    assert thresholds(rules) == [16]


def test_good_updates_go_live_within_the_limit(site):
    found = site(max_held_episodes=128)
    for _ in range(40):
        found.cycle(0.05)
        held = found.store.head().version - found.store.current()
        assert held * BATCH <= 2 * 128
    passed = [ruling.verdict for ruling in found.rulings if ruling.verdict.outcome == PASSED]
    assert len(passed) >= 5
    assert all(verdict.episodes <= 128 for verdict in passed)
    assert FAILED not in found.outcomes()
    assert found.acting_skill() > 1.0


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))]
)
def test_a_bad_update_never_goes_live_and_learning_begins_again_before_it(site, seed):
    found = site(seed=seed, max_held_episodes=64, min_episodes=16)
    for _ in range(10):
        found.cycle(0.1)
    before, live = found.acting_skill(), []
    bad = found.cycle(-2.0)
    for _ in range(24):
        found.cycle(0.0)
        live.append(found.acting_skill())
    assert min(live) >= before
    failed = [ruling for ruling in found.rulings if ruling.verdict.outcome == FAILED]
    assert failed
    head = found.store.head()
    assert Rejected.of(head).find(bad.version) is not None
    assert skill(head) >= before
    for _ in range(8):
        found.cycle(0.1)
    assert found.acting_skill() > before


def test_nothing_is_lost_or_counted_twice_by_starting_over(site):
    found = site(max_held_episodes=32, min_episodes=16)
    for change in [0.1] * 4 + [-2.0] + [0.0] * 10:
        found.cycle(change)
    head = found.store.head()
    assert (head.counters["updates"], head.counters["episodes"]) == (15, 15 * BATCH)
    assert FAILED in found.outcomes()
    archive = ArchiveReader(found.spool.archive_folder)
    shards = [episode for version in archive.versions() for episode in archive.episodes(version)]
    assert len({episode.key for episode in shards}) == 15 * BATCH
    assert len(found.store.lookup(episode.key for episode in shards)) == 15 * BATCH


def test_a_restart_goes_on_where_it_was(site):
    ones, others = [], []
    for seed, list_ in ((3, ones), (3, others)):
        found = site(seed=seed, max_held_episodes=64, min_episodes=16)
        for i in range(20):
            found.cycle(-1.0 if i == 12 else 0.1)
            if list_ is others:
                found.restart()
            list_.append((found.store.current(), found.rulings[-1].verdict))
    assert others == ones


def test_warn_lets_everything_act_and_says_what_would_not_have(site):
    found = site("warn", max_held_episodes=32, min_episodes=16)
    for change in [0.1, 0.1, 0.1, 0.1, 0.1, -2.0] + [0.0] * 12:
        head = found.cycle(change)
        assert found.store.current() == head.version == acting_version(head.manifest)
    assert FAILED in found.outcomes()


def test_shadow_never_moves_current_before_the_operator_does(site):
    found = site("shadow", min_episodes=16)
    for _ in range(6):
        found.cycle(0.1)
    assert found.store.current() is None
    found.restart()
    found.cycle(0.1)
    found.store.promote(4, writer="operator", reason="")
    for _ in range(12):
        found.cycle(0.1)
    assert found.store.current() == 4
    assert PASSED in found.outcomes()


def test_off_judges_nothing(site):
    found = site("off")
    head = found.cycle(-2.0)
    assert (found.store.current(), head.manifest["record"]) == (2, {})
    assert "acting" not in head.manifest


def test_turning_it_off_lets_the_next_version_act(site):
    found = site(min_episodes=16)
    for _ in range(2):
        found.cycle(0.1)
    assert found.store.current() == 1
    found.rules["mode"] = "off"
    found.restart()
    assert found.store.current() == 1
    found.cycle(0.1)
    assert found.store.current() == 4


def test_too_small_an_effective_share_is_no_pass_and_the_reason_says_so(site):
    found = site(max_held_episodes=16, min_episodes=16, min_ess=0.9)
    for _ in range(3):
        found.cycle(1.5)
    (verdict,) = (r.verdict for r in found.rulings if r.verdict.outcome == FAILED)
    assert "effective share is" in verdict.reason
    assert (verdict.episodes, verdict.probabilities, verdict.method) == (16, "logged", "cwpdis")


def test_log_probabilities_are_recovered_and_it_says_so(site):
    found = site(logged=False, min_episodes=16)
    for _ in range(4):
        found.cycle(0.05)
    looked = [r.verdict for r in found.rulings if r.verdict.value is not None]
    assert {verdict.probabilities for verdict in looked} == {"recovered"}


def test_the_manifest_tells_candidate_numbers_and_reason(site):
    found = site(min_episodes=16)
    for _ in range(3):
        found.cycle(0.05)
    gates = [found.store.manifest(v)["record"].get("gate") for v in (1, 2, 3, 4)]
    assert gates[0] is None
    assert (gates[1]["candidate"], gates[1]["against"], gates[1]["outcome"]) == (None, 1, WAITING)
    assert (gates[2]["candidate"], gates[2]["episodes"], gates[2]["value"]) == (2, 8, None)
    assert (gates[3]["candidate"], gates[3]["outcome"], gates[3]["episodes"]) == (2, PASSED, 16)
    assert gates[3]["low"] < gates[3]["value"] < gates[3]["high"]
    assert gates[3]["low"] >= -gates[3]["margin"]
    assert gates[3]["level"] == pytest.approx(1 - 2 * 0.05 / 5)
    assert found.store.current() == 2


def test_a_promotion_by_hand_ends_the_judgement(site):
    found = site(min_episodes=64)
    for _ in range(4):
        found.cycle(0.1)
    found.store.promote(4, writer="operator", reason="sure")
    found.cycle(0.1)
    assert found.rulings[-1].verdict.candidate is None
    assert (found.store.current(), found.rulings[-1].verdict.against) == (4, 4)
