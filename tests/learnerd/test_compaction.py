"""Replay, repair, reuse and provenance over compacted days are as over plain ones."""

import json
import shutil
import subprocess
import time

import pytest
from archive_tools import compact_all, expected, learn, read_ids, reader, spoil

from experience.archive_folder import compacted_shards, day_folders, own_shards
from experience.spool import Spool
from learnerd.config import load_config
from learnerd.replay import archived_versions, replay
from learnerd.report.provenance import provenance

REUSE = "[batch]\nreuse = 2.5\nchunk_episodes = 4\n"


def test_replay_over_compacted_days_gives_the_same_bits_and_reuse_finds_them(site, drop):
    site.configure(REUSE)
    learn(site, drop, 9, 8)
    assert compact_all(site).replaced == 2
    learn(site, drop, 6)
    assert any(update["replayed"] for update in site.manifest(3)["record"]["updates"])
    compact_all(site)
    assert len(site.files("archive")) == 1
    config = load_config(site.folder / "config.toml", {})
    assert archived_versions(config) == [1, 2, 3]
    rows = list(replay(config, archived_versions(config), scratch=site.folder / "scratch"))
    assert [row.same_weights for row in rows] == [True] * 3
    assert site.status()["learning"]["reuse"]["buffered"] == 23


def test_a_damaged_version_is_learned_again_from_a_compacted_shard(site, drop):
    learn(site, drop, 3)
    second = learn(site, drop, 5)
    compact_all(site)
    spoil(site, second)
    assert site.run_here() == 0
    assert site.manifest(site.current())["episodes_total"] == 8
    assert sorted(site.archived_ids()) == expected(8)
    assert reader(site).versions() == [second - 1, second + 1]
    assert site.run_here() == 9


@pytest.mark.slow
def test_a_crash_while_it_is_learned_again_from_a_compacted_shard(site, drop):
    learn(site, drop, 3)
    second = learn(site, drop, 5)
    compact_all(site)
    spoil(site, second)
    site.run_and_crash("Spool.finish = lambda *a, **k: os._exit(77)")
    compact_all(site)
    assert site.run_here() in (0, 9)
    assert site.manifest(site.current())["episodes_total"] == 8
    assert read_ids(site) == expected(8)
    compact_all(site)  # what was archived again beside its compacted rows
    assert sorted(site.archived_ids()) == expected(8)


@pytest.mark.slow
def test_ids_of_a_damaged_ancestor_come_from_a_compacted_shard(site, drop):
    first = drop()
    data = first.read_bytes()
    assert site.run_here() == 0
    learn(site, drop, 2)
    compact_all(site)
    shutil.rmtree(site.state / "checkpoints" / "00000001")
    (site.state / "checkpoints" / "00000001").mkdir()
    (site.inbox / "again.npz").write_bytes(data)
    assert site.run_here() == 0
    assert site.status()["episodes"]["refused"] == {"duplicate": 1}


def test_provenance_says_where_rows_are_and_that_they_were_removed(site, drop):
    learn(site, drop, 2)
    compact_all(site)
    config = load_config(site.folder / "config.toml", {})
    (path,) = site.files("archive")
    assert dict(provenance(config, 1).facts)["archive"] == str(path)
    path.unlink()
    assert "removed by [archive] retention" in dict(provenance(config, 1).facts)["archive"]
    pruned = provenance(config, 7)
    assert "pruned" in pruned.problem
    assert "no rows of it" in dict(pruned.facts)["archive"]
    learn(site, drop, 2)
    compact_all(site)
    (path,) = site.files("archive")
    path.write_bytes(path.read_bytes()[:-5])
    assert "damaged" in dict(provenance(config, 2).facts)["archive"]


DUE = (
    "import learnerd.compaction as c, learnerd.maintenance as m; c.SLICE_S = 0.0; real = m.start_calendar; "
    "m.start_calendar = lambda config, job: (job(), real(config, job))[1]"
)


@pytest.mark.slow
def test_the_daemon_compacts_while_it_learns_and_names_what_is_damaged(site, drop):
    learn(site, drop, 2, 3, 2, 2)
    root = Spool(site.folder / "spool").archive_folder
    (today,) = day_folders(root)
    yesterday = today.rename(root / "2020-01-01")
    bad = yesterday / "00000003.parquet"
    bad.write_bytes(b"damaged")
    site.configure("[batch]\nmax_wait_s = 0.1\n[archive]\nkeep_days = 99999")
    process = site.start(DUE)
    for _ in range(4):
        drop()
    site.wait(
        lambda: list(compacted_shards(yesterday)) and not (yesterday / "00000004.parquet").exists(),
        what="compaction",
    )
    site.wait(lambda: "archive_damaged" in alarms(site), what="the alarm")
    assert bad.name in alarms(site)["archive_damaged"]["message"]
    assert site.stop(process) == 0
    assert "compacted" in site.log()
    assert bad.read_bytes() == b"damaged"
    bad.unlink()
    assert read_ids(site) == sorted({*expected(13)} - {"episode-6", "episode-7"})


KILL = (
    "; steps = []; slice_ = c.Compaction._slice; c.Compaction._slice = lambda self: "
    "os._exit(77) if steps.append(1) or len(steps) > {k} else slice_(self)"
)


@pytest.mark.slow
def test_a_daemon_killed_again_and_again_while_it_compacts_and_learns(site, drop):
    learn(site, drop, *[2] * 6)
    root = Spool(site.folder / "spool").archive_folder
    (today,) = day_folders(root)
    for number, shard in enumerate(sorted(today.iterdir())):
        day = root / f"2020-01-0{1 + number % 3}"
        day.mkdir(exist_ok=True)
        shard.rename(day / shard.name)
    site.configure("[batch]\nmax_wait_s = 0.01\n[archive]\nkeep_days = 99999")
    dropped, died = 12, 0
    for k in range(1, 40, 4):
        process = subprocess.Popen(
            site.patched(DUE + KILL.replace("{k}", str(k)), "run"), env=site.env, cwd=site.folder
        )
        while process.poll() is None and not (whole := compacted_everywhere(root)):
            drop()
            dropped += 1
            time.sleep(0.1)
        if whole and process.poll() is None:
            process.terminate()
        died += process.wait(60) == 77
        if whole:
            break
    assert whole, "the kills come at ever later steps, so that it gets to its end"
    assert died >= 3
    assert site.run_here() in (0, 9)
    assert site.manifest(site.current())["episodes_total"] == dropped
    assert read_ids(site) == expected(dropped)


def compacted_everywhere(root):
    days = [day for day in day_folders(root) if day.name.startswith("2020")]
    return all(compacted_shards(day) and not own_shards(day) for day in days)


def alarms(site):
    document = json.loads((site.state / "status.json").read_bytes())
    return {alarm["id"]: alarm for alarm in document["alarms"]}
