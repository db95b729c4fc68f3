"""Damaged versions: noticed at the start and while running; what they had learned is learned again."""

import json
import os
import shutil

import pytest

from experience import compacted
from experience.archive import read_shard
from experience.compaction import compact
from experience.compaction_output import Compacted
from learnerd.config import load_config
from learnerd.repair import Repair
from learnerd.replay import archived_versions, replay
from learnerd.scrub import Scrub
from policies.checkpoint import Delta, LedgerEntry
from policies.errors import StoreError
from policies.ledger import Lineage
from policies.store import CheckpointStore


def learn(site, drop, count):
    """Deposit and learn; the version that holds them."""
    for _ in range(count):
        drop()
    assert site.run_here() == 0
    return site.current()


def folder(site, version):
    return site.state / "checkpoints" / f"{version:08d}"


def spoil(site, version, name="model.safetensors"):
    path = folder(site, version) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lineage_ids(site):
    """Every episode id in the ledgers of the head and its ancestors, with repeats."""
    store = CheckpointStore(site.state)
    head, found = store.head(), []
    for version in Lineage.of(head).numbers(1):
        found += [entry.key.episode_id for entry in store.episodes(version)]
    return sorted(found)


def alarm(site):
    document = json.loads((site.state / "status.json").read_bytes())
    return next(alarm for alarm in document["alarms"] if alarm["id"] == "version_damaged")


def expected(count):
    return sorted(f"episode-{i}" for i in range(1, count + 1))


@pytest.mark.parametrize("name", ["model.safetensors", "ledger.parquet", "manifest.json"])
def test_the_episodes_of_a_damaged_newest_version_are_learned_again(site, drop, name):
    first = learn(site, drop, 3)
    second = learn(site, drop, 5)
    spoil(site, second, name)
    assert site.run_here() == 0
    third = site.manifest(site.current())
    assert third["version"] == second + 1
    assert third["parents"] == [first]
    assert third["episodes_total"] == 8
    assert lineage_ids(site) == expected(8)
    assert sorted(site.archived_ids()) == expected(8)
    assert not folder(site, second).exists()
    found = alarm(site)
    assert found["level"] == "notice"
    assert f"version {second} was damaged; its episodes have been learned again" in found["message"]
    assert "check the disk" in found["remedy"]
    assert site.run_here() == 9


def test_replay_leaves_out_what_is_no_part_of_the_policy_and_follows_what_was_learned_again(site, drop):
    for count in (3, 4):
        last = learn(site, drop, count)
    spoil(site, last)
    site.run_and_crash("Spool.finish = lambda *a, **k: os._exit(77)")
    config = load_config(site.folder / "config.toml", {})
    assert archived_versions(config) == [last - 1, last + 1]
    assert [
        row.same_weights for row in replay(config, archived_versions(config), scratch=site.folder / "scratch")
    ] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    "patch",
    [
        "Spool.archive = lambda *a, **k: os._exit(77)",
        "Spool.finish = lambda *a, **k: os._exit(77)",
        "import learnerd.repair as r; r.Repair._close = lambda s, **k: s._in_hand and os._exit(77)",
    ],
    ids=["between publish and archive", "between archive and removal", "before the damaged one goes"],
)
def test_a_crash_while_episodes_are_learned_again_learns_nothing_twice(site, drop, patch):
    learn(site, drop, 3)
    second = learn(site, drop, 5)
    spoil(site, second, "manifest.json")
    site.run_and_crash(patch)
    assert site.current() == second + 1
    assert site.run_here() in (0, 9)
    assert lineage_ids(site) == expected(8)
    assert sorted(site.archived_ids()) == expected(8)
    assert site.manifest(site.current())["episodes_total"] == 8
    assert not folder(site, second).exists()


def test_everything_is_learned_again_when_no_version_is_left(site, drop):
    for count in (3, 4, 2):
        last = learn(site, drop, count)
    for version in range(1, last + 1):
        spoil(site, version)
    assert site.run_here() == 0
    assert site.current() > last
    assert lineage_ids(site) == expected(9)
    assert sorted(site.archived_ids()) == expected(9)


def test_clients_that_act_with_a_version_that_is_damaged_since_are_still_learned_from(site, drop):
    learn(site, drop, 3)
    second = learn(site, drop, 5)
    spoil(site, second)
    drop(meta={"policy_version": second})
    assert site.run_here() == 0
    assert lineage_ids(site) == expected(9)


def test_an_episode_deposited_again_meanwhile_is_learned_once(site, drop):
    learn(site, drop, 3)
    kept = drop()
    data = kept.read_bytes()
    assert site.run_here() == 0
    spoil(site, site.current())
    shard = max(site.files("archive"))
    away = site.folder / shard.name
    shutil.move(shard, away)
    (site.inbox / kept.name).write_bytes(data)
    os.utime(site.inbox / kept.name, (0, 0))
    assert site.run_here() == 0
    shutil.move(away, shard)
    assert site.run_here() in (0, 9)
    assert lineage_ids(site) == expected(4)
    assert sorted(site.archived_ids()) == expected(4)


def test_without_a_shard_the_alarm_says_what_is_lost(site, drop):
    learn(site, drop, 3)
    second = learn(site, drop, 5)
    spoil(site, second)
    (shard,) = [path for path in site.files("archive") if int(path.stem) == second]
    away = site.folder / shard.name
    shutil.move(shard, away)
    site.run_here()
    found = alarm(site)
    assert found.get("level", "alarm") == "alarm"
    assert f"version {second} is damaged" in found["message"]
    assert "the archive has no shard of it" in found["message"]
    assert f"{second:08d}" in found["remedy"]
    assert site.current() == second - 1
    shutil.move(away, shard)
    assert site.run_here() == 0
    assert lineage_ids(site) == expected(8)


def save_online(site, name="online-1"):
    store = CheckpointStore(site.state)
    base = store.head()
    change = {"policy.0.bias": base.weights["policy.0.bias"].astype("f8") * 0 + 1.0}
    key = read_shard(site.files("archive")[0])[0].key._replace(client_id="online", episode_id=name)
    entries = [LedgerEntry(key=key, row_sha256="0" * 64)]
    delta = Delta(weights=change, counters={"updates": 1})
    return store.publish(delta, base=base, writer="online", episodes=entries)


def test_an_online_learners_save_is_brought_back_by_its_delta(site, drop):
    learn(site, drop, 3)
    saved = save_online(site)
    spoil(site, saved.version)
    site.run_here()
    head = CheckpointStore(site.state).head()
    assert head.version == saved.version + 1
    assert head.writer == "online"
    assert (head.weights["policy.0.bias"] == saved.weights["policy.0.bias"]).all()
    assert head.counters == saved.counters
    assert "delta that was kept with it" in alarm(site)["message"]
    assert lineage_ids(site) == [*expected(3), "online-1"]


def test_a_save_is_brought_back_also_when_another_writer_went_on_without_it(site, drop):
    learn(site, drop, 3)
    first = save_online(site, "online-1")
    spoil(site, first.version)
    second = save_online(site, "online-2")
    assert (second.weights["policy.0.bias"] == first.weights["policy.0.bias"]).all()
    site.run_here()
    head = CheckpointStore(site.state).head()
    assert (head.weights["policy.0.bias"] == second.weights["policy.0.bias"] + 1.0).all()
    assert lineage_ids(site) == [*expected(3), "online-1", "online-2"]
    assert not folder(site, first.version).exists()


@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_ids_of_a_damaged_ancestor_come_from_the_archive(site, drop, left):
    first = drop()
    data = first.read_bytes()
    assert site.run_here() == 0
    learn(site, drop, 2)
    shutil.rmtree(folder(site, 1))
    if left == "an empty folder":
        folder(site, 1).mkdir()
    (site.inbox / "again.npz").write_bytes(data)
    assert site.run_here() == 0
    assert site.status()["episodes"]["refused"] == {"duplicate": 1}
    assert site.manifest(site.current())["episodes_total"] == 3
    assert "its episode ids are the archive's" in alarm(site)["message"]


def test_ids_of_an_ancestor_whose_files_are_put_back_are_known_again(site, drop, monkeypatch):
    first = drop()
    data = first.read_bytes()
    assert site.run_here() == 0
    learn(site, drop, 2)
    shutil.move(folder(site, 1), site.folder / "away")
    shutil.move(min(site.files("archive")), site.folder / "shard")

    def begin(self):
        assert self._take(lambda: self._repair.look(thorough=False, idle=True)) == ()
        assert "its episode ids are lost" in self._repair.look(thorough=False, idle=True).message
        prune(self._repair._store)  # the ids of what comes after it are compacted
        shutil.move(site.folder / "away", folder(site, 1))
        return self._take(lambda: self._repair.look(thorough=False, idle=True))  # the next one

    monkeypatch.setattr(Scrub, "begin", begin)
    (site.inbox / "again.npz").write_bytes(data)
    assert site.run_here() == 0
    assert site.status()["episodes"]["refused"] == {"duplicate": 1}
    assert "its files have been put back" in alarm(site)["message"]
    assert not CheckpointStore(site.state).versions_without_ids()


def prune(store):
    base = store.head()
    for _ in range(3):
        base = store.publish(Delta(weights={}), base=base, writer="other", episodes=[])
    assert store.prune(keep_last=2, keep_every=0, keep_minutes=0, keep_bytes=2**40, now_s=4e9) != []


def test_a_flipped_bit_in_current_costs_nothing_but_numbers(site, drop):
    """Tens of millions of them: nobody may look at each."""
    learn(site, drop, 3)
    second = learn(site, drop, 5)
    (site.state / "CURRENT").write_text(f"{80_000_000 + second:08d}\n")
    assert learn(site, drop, 1) == 80_000_000 + second + 1
    last = learn(site, drop, 2)
    spoil(site, last)
    assert site.run_here() == 0
    assert site.run_here() == 9
    assert lineage_ids(site) == expected(11)


@pytest.mark.slow
def test_damage_is_noticed_while_running_and_mended_from_memory(site, drop):
    site.configure("[batch]\nmax_wait_s = 0.1\n")
    process = site.start(patch="import learnerd.scrub; learnerd.scrub.EVERY_S = 0.1")
    for _ in range(3):
        drop()
    site.wait(lambda: site.current() == 1, what="the first version")
    weights = CheckpointStore(site.state).load(1).weights
    spoil(site, 1)
    site.wait(lambda: site.current() == 2, what="the same version again", timeout_s=90)
    healed = CheckpointStore(site.state).load(2)
    assert all((healed.weights[name] == weights[name]).all() for name in weights)
    site.wait(lambda: "from memory" in _message(site), what="the alarm")
    drop()
    site.wait(lambda: site.current() == 3, what="the next version")
    assert site.stop(process) == 0
    assert sorted(site.ledger_ids()) == expected(4)
    with pytest.raises(StoreError):
        CheckpointStore(site.state).load(1)


def _message(site):
    try:
        return alarm(site)["message"]
    except StopIteration:
        return ""


def test_a_look_that_fails_halfway_loses_nothing_at_the_next(site, drop, monkeypatch):
    learn(site, drop, 3)
    second, third = learn(site, drop, 4), learn(site, drop, 5)
    spoil(site, second)
    spoil(site, third)
    real, fails = Repair._own_shard, [True]

    def own_shard(self, version):
        if version == third and fails:
            fails.clear()
            raise OSError(28, "No space left on device")
        return real(self, version)

    def begin(self):
        assert self._take(lambda: self._repair.look(thorough=True, idle=True)) == ()
        return self._take(lambda: self._repair.look(thorough=True, idle=True))  # the next one

    monkeypatch.setattr(Repair, "_own_shard", own_shard)
    monkeypatch.setattr(Scrub, "begin", begin)
    assert site.run_here() == 0
    assert lineage_ids(site) == expected(12)


def test_a_damaged_part_of_a_compacted_shard_does_not_end_the_daemon(site, drop, monkeypatch):
    learn(site, drop, 3)
    learn(site, drop, 4)
    third = learn(site, drop, 5)
    monkeypatch.setattr(compacted, "GROUP_BYTES", 1)
    lineage = Lineage.of(CheckpointStore(site.state).head())
    archive = site.folder / "spool" / "archive"
    for _ in compact(
        archive, before="9999-01-01", ancestors=lambda: lineage.__contains__, report=Compacted()
    ):
        pass
    (path,) = archive.rglob("*.parquet")
    with compacted.CompactedShard(path) as shard:
        at = shard.index.groups[0][0] + 30
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    spoil(site, third)
    assert site.run_here() == 0
    assert lineage_ids(site) == expected(12)


def test_what_was_published_and_not_archived_is_archived_although_the_decoder_dies_once(site, drop):
    for _ in range(3):
        drop()
    site.run_and_crash("Spool.archive = lambda *a, **k: os._exit(77)")
    result = site.run_patched(DIES_ONCE)
    assert result.returncode == 0, result.stderr
    assert (site.folder / "died").exists()
    assert sorted(site.archived_ids()) == sorted(lineage_ids(site))
    assert (
        not (site.state / "outcomes.jsonl").exists()
        or "duplicate" not in (site.state / "outcomes.jsonl").read_text()
    )


DIES_ONCE = """
from experience import decoder as module
real = module.Decoder.decode_some
died = []
def decode_some(self, jobs, **options):
    jobs = list(jobs)
    if jobs and not died:
        died.append(1)
        open("died", "w").close()
        yield [module.DecodeResult(job=jobs[0], died=True)]
        jobs = jobs[1:]
    yield from real(self, jobs, **options)
module.Decoder.decode_some = decode_some
"""
