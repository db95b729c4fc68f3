"""``learnerd replay --verify``: a history of all that makes versions, rebuilt to the bit, and spoiled."""

import json
import platform
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from archive_tools import compact_all, reader, spoil

import learnerd.cycle
from experience.archive import read_rows_and_note, write_shard
from experience.archive_folder import first_version
from experience.compaction import take_out
from experience.durable import write_atomic
from experience.episode import EpisodeKey
from experience.spool import Spool
from learnerd.clock import Clock
from learnerd.config import load_config
from learnerd.maintenance import maintain, prune_store
from learnerd.threads import pin_threads
from learnerd.verify import plan_of, verify
from learnerd.versions import recorded_threads
from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
from policies.manifest import encode_manifest
from policies.recorded import RecordedVersions
from policies.records import Records
from policies.spec import DiscreteSpace, PolicySpec
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
CLOCK = Clock(remember_s=0.0)
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
    return prune_store(store, config_of(site), CLOCK)


def config_of(site):
    return load_config(site.folder / "config.toml", {})


def build(site, drop, monkeypatch):
    """Versions 1 to 11, of which 1, 2, 3 and 5 are pruned; shards are compacted in the middle."""
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


def shard_of(site, version):
    """The shard that a version has alone, taken out of a compacted one if need be."""
    return take_out(reader(site)._root, version)


def replayed_in(site, version, episode):
    """The versions that learned a row of ``version`` again."""
    recorded, place = RecordedVersions(site.state), [version, *episode.key]
    return {
        later
        for later in LEARNED
        if any(place in update["replayed"] for update in recorded.manifest(later)["record"]["updates"])
    }


def test_an_altered_row_names_version_and_file(history, in_process):
    site = history
    path = shard_of(site, 3)
    rows, note = read_rows_and_note(path)
    episodes = [row.episode for row in rows]
    at, again = next((i, again) for i, e in enumerate(episodes) if (again := replayed_in(site, 3, e)))
    episodes[at] = replace(episodes[at], reward=episodes[at].reward + 1.0)
    write_shard(path, episodes, note=note)
    printed = in_process(site.folder, "replay", "--verify", code=1).out
    assert "first that is not the same: version 3: episode" in printed
    assert f"altered since they were learned, in {path.parent.name}/{path.name}" in printed
    found = judged(site)
    assert found[3].outcome == "not_rebuilt"
    assert found[4].why == ("made from version 3, which is gone and could not be rebuilt",)
    assert all("learned again: altered in" in found[version].why[0] for version in again)
    assert outcomes(found, "same") == set(found) - {3, 4} - again  # the others are made from kept ones


def test_a_removed_shard_names_version_and_file(history):
    site = history
    path = shard_of(site, 8)
    path.unlink()
    found = judged(site)
    assert found[8].outcome == "not_rebuilt"
    assert "missing in the archive (no 00000008.parquet" in found[8].why[0]
    assert min(version for version, one in found.items() if one.outcome != "same") == 8


def test_a_damaged_shard_names_version_and_file(history):
    site = history
    path = shard_of(site, 6)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = judged(site)
    assert found[6].outcome == "not_rebuilt"
    assert str(path) in found[6].why[0]


def test_a_changed_delta_names_version_and_file(history):
    site = history
    records = Records(site.state)
    record = records.read(5)
    records.keep([record._replace(delta=record.delta[:-1] + bytes([record.delta[-1] ^ 1]))])
    found = judged(site)
    assert found[5].outcome == "not_rebuilt"
    assert "delta.safetensors has sha256" in found[5].why[0].replace(": ", " ")
    assert {1, 2, 3, 4, 7} <= outcomes(found, "same")


def test_another_delta_with_its_own_hash_differs_and_later_versions_are_still_judged(history):
    site = history
    store = CheckpointStore(site.state)
    folder = site.state / "checkpoints" / "00000010"
    manifest = dict(store.manifest(10))
    other = store.delta(10)
    from policies.delta import encode_delta  # noqa: PLC0415
    from policies.manifest import describe  # noqa: PLC0415

    data = encode_delta(Delta(weights={name: 2.0 * array for name, array in other.weights.items()}))
    manifest["files"] = {**manifest["files"], **describe({"delta.safetensors": data})}
    write_atomic(folder / "delta.safetensors", data)
    write_atomic(folder / "manifest.json", encode_manifest(manifest))
    found = judged(site)
    assert found[10].outcome == "differs"
    assert found[10].largest > 0.001
    assert found[10].why[0].startswith("nothing recorded tells why")
    assert outcomes(found, "same") == set(range(1, HEAD + 1)) - {10}


def test_from_and_to_begin_at_the_checkpoint_before(history, in_process):
    site = history
    found = json.loads(
        in_process(site.folder, "replay", "--verify", "--from", "8", "--to", "10", "--json").out
    )
    assert [row["version"] for row in found["versions"]] == [8, 9, 10]
    assert found["rebuilt_from"] == 8  # its parent, a rollback, was kept
    assert set(judged(site, first=3, last=5)) == {3, 4, 5}
    assert in_process(site.folder, "replay", "--verify", "--from", "12", code=9).err.startswith("nothing")
    assert "goes with --verify" in in_process(site.folder, "replay", "--from", "3", code=2).err


def test_without_records_what_is_left_is_judged(history, in_process):
    site = history
    (site.state / "records.sqlite").unlink()
    found = json.loads(in_process(site.folder, "replay", "--verify", "--json").out)
    assert [row["version"] for row in found["versions"]] == [7, 8, 9, 10, 11]
    assert found["out_of_reach"] == [6]
    assert found["equal"]
    refused = in_process(site.folder, "replay", "--verify", "--from", "3", "--to", "5", code=1).out
    assert "3 NOT REBUILT" in refused


@pytest.fixture
def elsewhere(monkeypatch):
    """A machine on which the last digits come out differently: torch's gradient in place of our own."""
    import policies.learner  # noqa: PLC0415 - loads torch

    original = policies.learner.chosen_path
    monkeypatch.setattr(
        policies.learner, "chosen_path", lambda *a, **k: original(*a, **{**k, "path": "torch"})
    )


def test_elsewhere_a_tolerance_counts(history, elsewhere, monkeypatch, in_process):
    site = history
    here = judged(site)
    assert here[11].outcome == "differs"
    assert 0 < here[11].largest < 1e-6
    libraries = (("numpy", "0.1"), ("learnerd", "9.9.9"))
    monkeypatch.setattr("learnerd.made_on._libraries", lambda: libraries)
    found = judged(site)
    assert found[11].outcome == "close"
    assert any(reason.startswith("numpy was ") and reason.endswith(", is 0.1") for reason in found[11].why)
    assert found[3].outcome == "unknown"
    assert not outcomes(found, "differs")
    printed = in_process(site.folder, "replay", "--verify").out
    assert "computed elsewhere: weights may differ by 1e-05 + 0.0001 times their size" in printed


def test_the_store_may_be_pruned_while_it_is_verified(history):
    site = history
    config = config_of(site)
    rows = verify(config, plan_of(config))
    first = next(rows)
    for _ in range(4):
        online(site)
    assert prune(site)
    assert [first.outcome, *(one.outcome for one in rows)] == ["same"] * HEAD
    assert outcomes(judged(site), "same") == set(range(1, HEAD + 5))


@pytest.mark.parametrize("version", [3, 9])
def test_show_tells_what_made_a_version_that_is_there_or_pruned(history, in_process, version):
    site = history
    printed = in_process(site.folder, "versions", "show", str(version)).out
    for expected in (
        f"made from: version {version - 1}\n",
        "update 1: ",
        "settings: as by default",
        "made on: cpu, threads 1, cpu ",
        f"libraries: python {platform.python_version()}, numpy {np.__version__}",
        f"config digest: {config_of(site).digest()}",
    ):
        assert expected in printed, printed
    assert ("pruned: this is its record" in printed) == (version == 3)
    assert "sha256 ok" in printed or version == 3
    merged = in_process(site.folder, "versions", "show", "11").out
    assert "made from: version 10, with a change since version 9 merged into it (weight 1.0, which" in merged
    assert (
        "made from: the weights of version 4, after version 6"
        in in_process(site.folder, "versions", "show", "7").out
    )
    assert "made from: initial weights" in in_process(site.folder, "versions", "show", "1").out


@pytest.mark.parametrize("version", [3, 9])
def test_show_lists_the_episodes_in_the_order_of_learning(history, in_process, version):
    site = history
    document = json.loads(
        in_process(site.folder, "versions", "show", str(version), "--episodes", "--json").out
    )
    manifest, rows = document["manifest"], document["episodes"]
    new = [row for row in rows if row["learned_again_from"] is None]
    archived = reader(site).episodes(version)
    assert [row["row_sha256"] for row in new] == [episode.row_sha256 for episode in archived]
    assert [row["return"] for row in new] == pytest.approx([episode.total_reward for episode in archived])
    assert [(row["client_id"], row["steps"], row["policy_version"]) for row in new] == [
        ("bot", 5, episode.policy_version) for episode in archived
    ]
    again = [update["replayed"] for update in manifest["record"]["updates"]]
    found = [
        [
            [row[name] for name in ("learned_again_from", "client_id", "episode_id", "segment", "agent_id")]
            for row in rows
            if row["update"] == update and row["learned_again_from"] is not None
        ]
        for update in range(len(again))
    ]
    assert found == again
    assert sum(map(len, again))
    printed = in_process(site.folder, "versions", "show", str(version), "--episodes").out
    assert f"again, of {again[0][0][0]}" in printed
    assert new[0]["row_sha256"][:12] in printed
    assert " agent " not in printed  # nobody named one


def test_episodes_of_a_pruned_version_are_named_without_the_archive_too(history, in_process):
    site = history
    shard_of(site, 3).unlink()
    document = json.loads(in_process(site.folder, "versions", "show", "3", "--episodes", "--json").out)
    rows = [row for row in document["episodes"] if row["learned_again_from"] is None]
    assert [row["episode_id"] for row in rows] == [f"episode-{i}" for i in range(10, 15)]
    assert {row["steps"] for row in rows} == {None}


@pytest.mark.slow
def test_a_policy_inferred_from_its_first_episodes_and_a_damaged_version_learned_again(site, drop):
    site.configure("[admission]\nlogp_tolerance = 0.0\n")
    for count in (3, 4, 2):
        learn(site, drop, count)
    spoil(site, 3)
    assert site.run_here() == 0
    assert CheckpointStore(site.state).head().version == 4
    assert outcomes(judged(site), "same") == {1, 2, 4}


@pytest.mark.slow
def test_a_gate_that_starts_over_is_rebuilt(site, drop):
    site.configure(
        CONFIG + '[gate]\nmode = "enforce"\nmin_episodes = 8\nmax_held_episodes = 8\nmargin = 0.0\n'
    )
    for _ in range(3):
        learn(site, drop, 9)
    assert CheckpointStore(site.state).promote(writer="operator", reason="test")
    found = judged(site)
    assert any(one.made == "rollback" for one in found.values())
    assert outcomes(found, "same") == set(range(1, CheckpointStore(site.state).head().version + 1))


def test_versions_of_an_earlier_release_are_rebuilt_by_todays_settings(history):
    site = history
    for version in (8, 9):
        reseal(site, version, without=("settings", "machine"))
    assert outcomes(judged(site), "same") == set(range(1, HEAD + 1))
    site.configure(CONFIG + "[learner]\nlearning_rate = 0.01\n")
    found = judged(site)
    assert outcomes(found, "same") == set(range(1, HEAD + 1)) - {8, 9}
    assert "its settings were not recorded, and config.toml has changed since" in found[8].why


def reseal(site, version, *, without):
    """Write a manifest as a release would that did not record some things."""
    manifest = dict(CheckpointStore(site.state).manifest(version))
    manifest["record"] = {name: what for name, what in manifest["record"].items() if name not in without}
    path = site.state / "checkpoints" / f"{version:08d}" / "manifest.json"
    write_atomic(path, encode_manifest(manifest))


def test_threads_are_those_of_the_newest_version_that_tells(history):
    site = history
    assert recorded_threads(site.state) == 1
    assert recorded_threads(site.folder) is None
    environment = {}
    assert pin_threads(config_of(site), environment, recorded=3) == 3
    assert environment["OPENBLAS_NUM_THREADS"] == "3"


def test_what_retention_removed_is_no_failure(history, in_process, capsys):
    site = history
    root = reader(site)._root
    keep_house(site)
    assert first_version(root) == 2
    assert Records(site.state).versions() == [1, 2, 3, 5, 8, 9]
    for version in (2, 3):
        shard_of(site, version).unlink()
    assert first_version(root) == 6
    keep_house(site)
    assert Records(site.state).versions() == [5, 8, 9]
    capsys.readouterr()  # log lines
    found = json.loads(in_process(site.folder, "replay", "--verify", "--json").out)
    assert found["out_of_reach"] == [4]
    outcome = {row["version"]: row["outcome"] for row in found["versions"]}
    assert outcome[6] == "unknown"  # learned again from rows that are gone
    assert set(outcome.values()) == {"same", "unknown"}
    assert list(outcome) == list(range(5, HEAD + 1))
    assert first_version(site.folder) is None


def keep_house(site):
    store, spool = CheckpointStore(site.state), Spool(site.folder / "spool")
    maintain(config_of(site), spool=spool, store=store, clock=CLOCK)


def test_nothing_to_verify(site, in_process):
    assert "nothing to verify: no version" in in_process(site.folder, "replay", "--verify", code=9).err


def test_an_archive_that_is_empty_or_not_there_is_told(history, in_process):
    site = history
    archive = reader(site)._root
    shutil.rmtree(archive)
    told = in_process(site.folder, "replay", "--verify", code=9)
    assert f"nothing to verify: the archive {archive} is not there" in told.err
    assert told.out == ""
    archive.mkdir()
    told = in_process(site.folder, "replay", "--verify", "--from", "8", code=9).err
    assert f"nothing to verify: the archive {archive} is empty" in told
    found = json.loads(
        in_process(site.folder, "replay", "--verify", "--from", "10", "--to", "10", "--json").out
    )
    assert found["counts"] == {"same": 1}  # saved by an online learner: no row is needed


@pytest.mark.slow
def test_a_daemon_that_publishes_and_prunes_meanwhile(site, drop):
    site.configure(CONFIG.replace("chunk_episodes = 4", "min_episodes = 1\nmax_wait_s = 0.05"))
    process = site.start()
    for count in range(1, 31):
        drop(meta={"policy_version": site.current()})
        site.wait(lambda c=count: learned(site) >= c, what="the episode")
        if count % 4 == 0:
            online(site)
            prune(site)
        if count % 15 == 0:
            verified = site.learnerd("replay", "--verify")
            assert verified.returncode == 0, verified.stdout
    assert site.stop(process) == 0
    found = judged(site)
    assert outcomes(found, "same") == set(range(1, site.current() + 1))
    assert len(CheckpointStore(site.state).versions()) < 10 < len(found)


def learned(site):
    return json.loads((site.state / "status.json").read_bytes())["episodes"]["learned"]


def test_what_retention_removes_meanwhile_is_no_failure(history):
    site = history
    config = config_of(site)
    plan = plan_of(config)
    rows = verify(config, plan)
    found = [next(rows)]
    for version in (2, 3):
        shard_of(site, version).unlink()
    keep_house(site)
    found += rows
    outcome = {one.version: one.outcome for one in found}
    assert outcome[1] == outcome[5] == "same"
    assert outcome[2] == outcome[3] == "unknown"
    assert set(outcome.values()) == {"same", "unknown"}


def test_weights_that_nobody_published_are_no_failure_while_they_are_all_there_is(site, in_process):
    site.configure("")
    store = CheckpointStore(site.state)
    spec = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(3,))
    base = initial_checkpoint(spec, seed=1)
    change = {name: np.full(array.shape, 0.01) for name, array in base.weights.items()}
    entry = LedgerEntry(key=EpisodeKey("online", "own", 0, ""), row_sha256="ab" * 32)
    saved = store.publish(Delta(weights=change), base=base, writer="online", episodes=[entry])
    told = in_process(site.folder, "replay", "--verify", code=9).err
    assert "nothing to begin with is left: versions 1" in told
    store.publish(Delta(weights=change), base=saved, writer="online", episodes=[])
    assert outcomes(judged(site), "same") == {2}
