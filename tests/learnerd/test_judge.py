"""The judge on a task whose returns are known: a bad update never goes live, a good one does in time."""

import itertools

import pytest
from judge_site import BATCH, Site, skill

from experience.archive_reader import ArchiveReader
from learnerd.config import Config
from learnerd.judge import FAILED, PASSED, WAITING, thresholds
from policies.acting import acting_version
from policies.rollback import Rejected


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
