"""``learnerd replay --verify``: a history of everything that makes versions, rebuilt to the bit, and spoiled."""

import json
import shutil
import time

import numpy as np
import pytest
from archive_tools import compact_all, reader

import learnerd.cycle
from experience.archive import read_rows_and_note, write_shard
from experience.compaction import take_out
from experience.durable import write_atomic
from experience.episode import EpisodeKey
from learnerd.clock import Clock
from learnerd.config import load_config
from learnerd.maintenance import prune_store
from learnerd.verify import plan_of, verify
from policies.checkpoint import Delta, LedgerEntry
from policies.manifest import encode_manifest
from policies.records import Records
from policies.store import CheckpointStore

CONFIG = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
hidden = [8, 8]
[admission]
logp_tolerance = 0.0
[batch]
reuse = 2.0
chunk_episodes = 4
[store]
keep_last = 2
keep_every = 0
keep_minutes = 0
"""
LEARNED, SAVED = {2, 3, 6, 8, 9, 11}, {4, 5, 10}
HEAD = 11
built = {}
"""The folder of the history, made once."""


def online(site, base=None):
    """Save a change as an online learner does: with an episode of its own, and its own optimizer nowhere."""
    store = CheckpointStore(site.state)
    base = store.head() if base is None else store.load(base)
    rng = np.random.default_rng(base.version)
    change = {name: 0.01 * rng.normal(size=array.shape) for name, array in base.weights.items()}
    key = EpisodeKey("online", f"own-{time.monotonic_ns()}", 0, "")
    entry = LedgerEntry(key=key, row_sha256="ab" * 32)
    delta = Delta(weights=change, counters={"updates": 1, "steps": 5})
    return store.publish(delta, base=base, writer="online", episodes=[entry]).version


def learn(site, drop, count, **arguments):
    for _ in range(count):
        drop(meta={"policy_version": site.current()}, **arguments)
    assert site.run_here() == 0


def learn_while_somebody_saves(site, drop, monkeypatch):
    once = []

    def saved_meanwhile(*arguments, **options):
        if not once:
            once.append(online(site))
        return original(*arguments, **options)

    original = learnerd.cycle.learn
    with monkeypatch.context() as patch:
        patch.setattr(learnerd.cycle, "learn", saved_meanwhile)
        learn(site, drop, 5)


def prune(site):
    store = CheckpointStore(site.state)
    return prune_store(store, config_of(site), Clock(remember_s=0.0))


def config_of(site):
    return load_config(site.folder / "config.toml", {})


def build(site, drop, monkeypatch):
    """Versions 1 to 11, of which 1 to 9 are pruned; a day of shards is compacted in the middle."""
    site.configure(CONFIG)
    for count in (9, 5):
        learn(site, drop, count)
    assert online(site, base=2) == 4
    assert online(site) == 5
    learn(site, drop, 6, logp=None)
    assert CheckpointStore(site.state).rollback(4, writer="operator", reason="test").version == 7
    learn(site, drop, 4)
    compact_all(site)
    assert prune(site) == [1, 2, 3, 5]  # a rollback's ends stay
    learn(site, drop, 8)
    learn_while_somebody_saves(site, drop, monkeypatch)


@pytest.fixture
def history(site, drop, monkeypatch, tmp_path_factory):
    """The whole history in a folder of the test's own."""
    if not built:
        build(site, drop, monkeypatch)
        built["folder"] = tmp_path_factory.mktemp("built") / "site"
        shutil.copytree(site.folder, built["folder"])
    shutil.rmtree(site.folder)
    shutil.copytree(built["folder"], site.folder)
    return site


def judged(site, first=None, last=None):
    config = config_of(site)
    return {one.version: one for one in verify(config, plan_of(config, first=first, last=last))}


def outcomes(found, outcome):
    return {version for version, one in found.items() if one.outcome == outcome}


def test_everything_that_makes_a_version_is_rebuilt_to_the_bit(history, in_process):
    site = history
    manifests = {v: CheckpointStore(site.state).manifest(v) for v in (8, 9, 10, 11)}
    assert manifests[11]["merge"]["rebased"]
    assert manifests[11]["parents"] == [10, 9]
    assert any(update["replayed"] for update in manifests[9]["record"]["updates"])
    found = json.loads(in_process(site.folder, "replay", "--verify", "--json").out)
    assert found["equal"]
    assert found["first_different"] is None
    assert found["counts"] == {"same": HEAD}
    made = {row["version"]: row["made"] for row in found["versions"]}
    assert {version for version, how in made.items() if how == "learned"} == LEARNED
    assert {version for version, how in made.items() if how == "saved"} == SAVED
    assert (made[1], made[7]) == ("published", "rollback")
    assert all(row["sha256"] == row["rebuilt_sha256"] for row in found["versions"])
    shown = in_process(site.folder, "replay", "--verify").out
    assert "11 versions: 11 same" in shown
