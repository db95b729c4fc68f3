"""Admission holds what clients claim against the versions in the store."""

import time
from dataclasses import replace

import numpy as np
import pytest

from experience.admission import Rules, admit_all
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd import foresight
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from policies.actor import Actor
from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

DISCRETE = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=3), normalize=True)
CONTINUOUS = replace(DISCRETE, action=ContinuousSpace(size=2), activation="relu")
STEPS = 30


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def publish(state, spec=DISCRETE, *, count=1):
    """Publish versions that act differently."""
    store, rng = CheckpointStore(state), np.random.default_rng(0)
    head = store.head() or initial_checkpoint(spec, seed=0)
    for _ in range(count):
        weights = {name: rng.normal(size=shape) * 0.3 for name, shape in spec.shapes().items()}
        seen = RunningStatistics.of(rng.normal(2, 3, (100, 4)))
        change = Delta(weights=weights, observed=seen, counters={"updates": 1})
        head = store.publish(change, base=head, writer="w", episodes=[])
    return store


def prune(store, max_staleness):
    keep = {"keep_last": 1, "keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12}
    return store.prune(**keep, now_s=time.time() + 9, max_staleness=max_staleness)


@pytest.fixture
def admission(tmp_path, state):
    def build(**changes):
        spool = Spool(tmp_path / "spool")
        spool.make_folders()
        rules = {"max_age_s": 1e12, "max_staleness": 8, "logp_tolerance": 0.01, **changes}
        built = Admission(
            store=CheckpointStore(state),
            spool=spool,
            outcomes=Outcomes(state / "outcomes.jsonl"),
            rules=Rules(**rules),
            clock=Clock(remember_s=1.0),
            starvation_episodes=3,
        )
        built.spool = spool
        return built

    return build


def arrival(admission, *episodes):
    name = f"{time.monotonic_ns()}.npz"
    (admission.spool.root / "in" / name).write_bytes(b"")
    claim = admission.spool.claim(name)
    return Arrival(claim=claim, episodes=episodes, claimed_at=time.time(), seen_s=None, mtime_s=time.time())


def refused(admission, *episodes):
    """The reasons that were counted when ``episodes`` came in."""
    before = admission.counts()["refused"]
    admission.sort(arrival(admission, *episodes))
    after = admission.counts()["refused"]
    return {
        reason: count - before.get(reason, 0)
        for reason, count in after.items()
        if count > before.get(reason, 0)
    }


@pytest.fixture
def played(state, make_episode):
    """An episode in which the current version acted, as a Python client logs it."""

    def play(name, *, masked=False, width=4, **changes):
        actor, rng = Actor(state, seed=1), np.random.default_rng(2)
        obs = rng.normal(2, 3, (STEPS + 1, width)).astype(np.float32)
        mask = np.ones((STEPS, 3), bool)
        mask[np.arange(STEPS), rng.integers(3, size=STEPS)] = False
        full = np.zeros((STEPS + 1, 4), np.float32)
        full[:, :width] = obs
        acted = [actor.act(full[t], mask=mask[t] if masked else None) for t in range(STEPS)]
        fields = {
            "obs": obs,
            "action": np.array([action for action, _ in acted]),
            "logp": np.array([logp for _, logp in acted]),
            "reward": np.zeros(STEPS),
            "mask": mask if masked else None,
            "policy_version": actor.version,
        }
        return make_episode(name, **fields | changes)

    return play


def test_what_this_process_publishes_between_two_files_is_seen(state, admission, played):
    store, sorting = publish(state), admission()
    episode = played("a")
    first, again = arrival(sorting, episode), arrival(sorting, episode)

    def coming():
        yield first
        entry = LedgerEntry(key=episode.key, row_sha256=episode.row_sha256)
        store.publish(Delta(weights={}), base=store.head(), writer="w", episodes=[entry])
        sorting.learned(first)
        yield again

    kept = list(sorting.sort_all(coming()))
    assert [len(one.episodes) for one in kept] == [1, 0]
    assert sorting.counts()["refused"] == {"duplicate": 1}


def test_files_sorted_together_cost_one_look_at_the_store(state, admission, played, monkeypatch):
    publish(state)
    sorting, looks, made = admission(), [], [played(name) for name in "abc"]
    real = CheckpointStore.head
    monkeypatch.setattr(CheckpointStore, "head", lambda store: looks.append(1) or real(store))
    kept = list(sorting.sort_all([arrival(sorting, one) for one in made]))
    assert [len(one.episodes) for one in kept] == [1, 1, 1]
    assert len(looks) == 1


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS, replace(DISCRETE, layer_norm=True)])
def test_what_our_own_actor_logs_is_admitted(state, admission, played, spec):
    publish(state, spec, count=3)
    assert refused(admission(), played("a")) == {}


def test_masks_and_padded_observations_are_part_of_it(state, admission, played):
    publish(state, count=2)
    admitting = admission(width="padded")
    episode = played("a", masked=True, width=3)
    assert refused(admitting, episode) == {}
    assert refused(admitting, replace(episode, episode_id="b", mask=None)) == {"logp_mismatch": 1}


def test_log_probabilities_of_another_version_are_refused(state, admission, played):
    publish(state)
    old = played("a")
    publish(state)
    admitting = admission()
    assert refused(admitting, old) == {}
    assert refused(admitting, replace(old, episode_id="b", policy_version=2)) == {"logp_mismatch": 1}
    record = (state / "outcomes.jsonl").read_text()
    assert "version 2 gives" in record
    assert "logp[" in record


def test_a_temperature_of_its_own_is_refused_unless_no_version_is_noted(state, admission, played):
    publish(state)
    episode = played("a")
    warm = replace(episode, logp=episode.logp * 0.7)
    admitting = admission()
    assert refused(admitting, warm) == {"logp_mismatch": 1}
    assert refused(admitting, replace(warm, episode_id="b", policy_version=None)) == {}
    assert refused(admission(logp_tolerance=0.0), replace(warm, episode_id="c")) == {}


def test_a_pruned_version_is_held_against_while_its_actor_is_kept(state, admission, played):
    store = publish(state)
    episode = played("a")
    wrong = replace(episode, logp=episode.logp - 0.1)
    publish(state, count=4)
    assert 1 in prune(store, 8)
    admitting = admission()
    assert refused(admitting, episode) == {}
    assert refused(admitting, replace(wrong, episode_id="b")) == {"logp_mismatch": 1}
    (state / "actors" / "00000001.safetensors").unlink()
    assert refused(admission(), replace(wrong, episode_id="c")) == {}


def test_a_version_above_the_head_is_refused(state, admission, played):
    publish(state, count=2)
    assert refused(admission(), played("a", policy_version=3)) == {"unknown_version": 1}


def test_too_stale_is_too_stale_also_when_the_version_is_gone(state, admission, played):
    store = publish(state)
    episode = played("a")
    publish(state, count=3)
    prune(store, 2)
    assert refused(admission(max_staleness=2), episode) == {"too_stale": 1}


def test_shapes_come_from_whoever_publishes_first(state, admission, played, make_episode):
    admitting = admission()
    publish(state)
    assert refused(admitting, make_episode("a", width=9)) == {"observation_width": 1}


def test_a_client_starves_until_something_of_it_is_learned(state, admission, make_episode):
    publish(state)
    admitting = admission()
    bad = [make_episode(f"bad{i}", policy_version=9) for i in range(6)]
    assert refused(admitting, *bad[:2]) == {"unknown_version": 2}
    assert admitting.starved() is None
    good = arrival(admitting, make_episode("good"), make_episode("again"))
    good = admitting.sort(good)
    refused(admitting, *bad[2:4])
    assert admitting.starved() is None  # something of it waits to be learned from
    (verdict,) = admit_all([bad[0]], admitting._rules, admitting._sights(good)[:1])
    admitting.refuse_all(good, verdict)
    assert "client 'bot'" in admitting.starved().message
    good = admitting.sort(arrival(admitting, make_episode("good2")))
    admitting.learned(good)
    assert admitting.starved() is None
    refused(admitting, *bad[4:])
    assert admitting.starved() is None


def test_an_episode_that_came_twice_is_no_starvation(state, admission, make_episode):
    publish(state)
    admitting = admission()
    admitting.learned(admitting.sort(arrival(admitting, make_episode("good"))))
    held = admitting.sort(arrival(admitting, make_episode("held", client_id="other")))
    for _ in range(5):
        assert refused(admitting, make_episode("held", client_id="other")) == {"duplicate": 1}
    admitting.finish(held)
    assert admitting.starved() is None


def test_what_is_foreseen_of_several_files_is_what_each_alone_is_told(state, admission, played):
    publish(state, count=2)
    wrong = np.full(STEPS, -3.0)
    made = [played("a"), played("b", logp=wrong), played("c", policy_version=9), played("d"), played("d")]
    sorting = admission()
    arrivals = [arrival(sorting, one) for one in made]

    def coming():
        sorting.foresee(arrivals)
        yield from arrivals

    kept = [len(one.episodes) for one in sorting.sort_all(coming())]
    assert kept == [1, 0, 0, 1, 0]
    assert sorting.counts()["refused"] == {"duplicate": 1, "logp_mismatch": 1, "unknown_version": 1}


def test_what_was_foreseen_is_forgotten_where_versions_may_have_changed(
    state, admission, played, monkeypatch
):
    store, sorting = publish(state, count=2), admission()
    arrivals = [arrival(sorting, played(name)) for name in "ab"]
    judged = []
    real = foresight.admit_all
    monkeypatch.setattr(
        foresight, "admit_all", lambda episodes, *rest: judged.append(len(episodes)) or real(episodes, *rest)
    )

    def coming():
        sorting.foresee(arrivals)
        yield arrivals[0]
        store.rollback(1, writer="w", reason="test")
        sorting.verdicts += 1  # as any verdict of this process does
        yield arrivals[1]

    assert [len(one.episodes) for one in sorting.sort_all(coming())] == [1, 0]
    assert sorting.counts()["refused"] == {"rejected_version": 1}
    assert judged == [2, 1]
