"""Learning again from the archive, through the real daemon: accounts, crashes, and ``replay``."""

import json
import shutil

import numpy as np
import pytest

import learnerd.cycle
import learnerd.daemon
import learnerd.reuse
from experience.archive import read_note
from learnerd.config import load_config
from learnerd.recorded_passes import read_places
from learnerd.replay import archived_versions, replay
from policies.errors import UpdateDiverged
from policies.store import CheckpointStore

REUSE = """
[admission]
logp_tolerance = 0.0
[batch]
reuse = 2.5
chunk_episodes = 4
"""


def rounds(site, drop, *counts, **arguments):
    """Deposit and learn, one run of the daemon after the other."""
    for count in counts:
        for _ in range(count):
            drop(meta={"policy_version": site.current() or 0}, **arguments)
        assert site.run_here() == 0


def replayed(site, version):
    """What each update of a version learned again, by its manifest."""
    return [update["replayed"] for update in site.manifest(version)["record"]["updates"]]


def replay_rows(site):
    config = load_config(site.folder / "config.toml", {})
    scratch = site.folder / "scratch"
    rows = list(replay(config, archived_versions(config), scratch=scratch))
    shutil.rmtree(scratch)
    return rows


def test_archived_episodes_are_learned_again_and_counted_once(site, drop):
    site.configure(REUSE)
    rounds(site, drop, 9, 8, 5, steps=5)
    assert sorted(site.ledger_ids()) == sorted(f"episode-{i}" for i in range(1, 23))
    assert sorted(site.archived_ids()) == sorted(site.ledger_ids())
    head = CheckpointStore(site.state).head()
    first, second, third = (site.manifest(version) for version in (1, 2, 3))
    assert [update["episodes"] for update in first["record"]["updates"]] == [4, 5]
    assert [len(rows) for rows in replayed(site, 2)] == [9, 9]  # of 13, then of 4 + 6: there are no more
    assert [update["episodes"] for update in second["record"]["updates"]] == [13, 13]
    assert [len(rows) for rows in replayed(site, 3)] == [8]
    assert third["record"]["updates"][0]["learning_rate"] == pytest.approx(5e-4 * np.sqrt(13 / 8))
    assert head.counters["replayed"] == 9 + 9 + 8
    assert head.counters["episodes"] == 22
    assert head.counters["steps"] == head.normalizer.count == 22 * 5
    for rows in replayed(site, 3):
        assert len({tuple(row) for row in rows}) == len(rows)
        for version, client, episode_id, segment, agent in rows:
            assert (client, segment, agent) == ("bot", 0, "")
            assert episode_id in [episode.episode_id for episode in site.archived(version)]
    learning = site.status()["learning"]
    assert learning["reuse"] == {
        "passes": 26,
        "credits": 0.5,
        "buffered": 22,
    }
    assert learning["batch_episodes"] == 13
    assert learning["steps"] == 110
    assert "26 passes over archived episodes" in site.learnerd("status").stdout


@pytest.mark.slow
def test_replay_rebuilds_the_same_weights_also_without_the_old_manifests(site, drop):
    site.configure(REUSE)
    rounds(site, drop, 9, 8, 6)
    rounds(site, drop, 7, logp=None)
    assert site.status()["learning"]["unlogged_steps"] == 0
    assert any(rows for version in (2, 3, 4) for rows in replayed(site, version))
    for version in (2, 3, 4):
        note = read_note(next(p for p in site.files("archive") if p.name == f"{version:08d}.parquet"))
        assert json.loads(note) == replayed(site, version)
    assert [row.same_weights for row in replay_rows(site)] == [True] * 4
    store = CheckpointStore(site.state)
    store.prune(keep_last=2, keep_every=0, keep_minutes=0.0, keep_bytes=10**9, now_s=4e9)
    site.configure(REUSE + "replay_episodes = 1")  # rows that are not in memory are found on disk
    assert [row.same_weights for row in replay_rows(site)] == [None, None, True, True]
    site.configure(REUSE.replace("2.5", "1.0"))
    assert [row.same_weights for row in replay_rows(site)] == [None, None, False, False]


def test_replay_goes_on_without_rows_that_the_archive_has_lost(site, drop, capsys):
    site.configure(REUSE)
    rounds(site, drop, 9, 8)
    next(path for path in site.files("archive") if path.name == "00000001.parquet").unlink()
    (row,) = replay_rows(site)
    assert (row.episodes, row.steps, row.same_weights) == (8, 40, False)
    assert "no longer in the archive" in capsys.readouterr().out


def test_another_chunk_size_deals_the_rows_out_anew():
    rows = [[[1, "bot", name, 0, ""] for name in names] for names in ("abc", "", "d")]
    places = read_places(json.dumps(rows), updates=3)
    assert [[key.episode_id for _, key in part] for part in places] == [["a", "b", "c"], [], ["d"]]
    dealt = read_places(json.dumps(rows), updates=2)
    assert [[key.episode_id for _, key in part] for part in dealt] == [["a", "b"], ["c", "d"]]
    assert read_places("", updates=2) == [[], []]


CRASHES = {
    "before publish": "import learnerd.cycle as c; c.Cycle._publish = lambda *a, **k: os._exit(77)",
    "between publish and archive": "Spool.archive = lambda *a, **k: os._exit(77)",
    "between archive and unlink": "Spool.finish = lambda *a, **k: os._exit(77)",
}


@pytest.mark.parametrize("patch", CRASHES.values(), ids=CRASHES.keys())
def test_a_crash_neither_loses_nor_doubles_credits(site, drop, patch):
    site.configure(REUSE)
    rounds(site, drop, 8)
    for _ in range(8):
        drop(meta={"policy_version": 1})
    site.run_and_crash(patch)
    crashed = site.current()
    assert crashed == (1 if "_publish" in patch else 2)
    if crashed == 1:
        rounds(site, drop, 0)
    rounds(site, drop, 6)
    expected = sorted(f"episode-{i}" for i in range(1, 23))
    assert sorted(site.ledger_ids()) == expected
    assert sorted(site.archived_ids()) == expected
    head = CheckpointStore(site.state).head()
    manifests = [site.manifest(version) for version in range(1, head.version + 1)]
    made = sum(len(rows) for version in range(1, head.version + 1) for rows in replayed(site, version))
    assert head.counters["replayed"] == made == 8 + 8 + 12
    assert head.counters["replay_credits"] == sum(m["delta_counters"]["replay_credits"] for m in manifests)
    assert head.counters["replayed"] <= 1.5 * head.counters["episodes"]
    assert site.status()["learning"]["reuse"]["buffered"] == 22
    assert [row.same_weights for row in replay_rows(site)] == [True] * head.version


def test_an_archived_episode_to_blame_costs_no_new_one(site, drop, monkeypatch):
    site.configure(REUSE)
    rounds(site, drop, 8)
    real = learnerd.cycle.learn

    def learn(base, chunks, *, passes, **options):
        if any(passes.replayed):
            raise UpdateDiverged(what="loss", value=float("inf"))
        return real(base, chunks, passes=passes, **options)

    monkeypatch.setattr(learnerd.cycle, "learn", learn)
    rounds(site, drop, 8)
    assert site.status()["episodes"]["refused"] == {}
    assert site.manifest(2)["episodes_total"] == 16
    assert replayed(site, 2) == [[], []]


@pytest.mark.slow
def test_a_batch_never_holds_an_episode_twice(site, drop):
    """A damaged version's episodes are learned again: they are new, and in the archive at the same time."""
    site.configure(REUSE)
    rounds(site, drop, 8, 8)
    model = site.state / "checkpoints" / "00000002" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert site.run_here() == 0
    new = {f"episode-{i}" for i in range(9, 17)}
    rows = [row for rows in replayed(site, 3) for row in rows]
    assert len(rows) == 8 + 8
    assert {row[0] for row in rows} == {1}
    assert not {row[2] for row in rows} & new
    rounds(site, drop, 8)
    assert {row[0] for rows in replayed(site, 4) for row in rows} == {1, 3}
    assert [row.same_weights for row in replay_rows(site)] == [True, True, True]


def test_reinforce_cannot_learn_again(site, drop):
    site.configure(REUSE + '[learner]\nalgorithm = "reinforce"')
    result = site.learnerd("run", "--once")
    assert result.returncode == 6
    assert '[batch] reuse is 2.5; accepted: 1.0 with algorithm "reinforce"' in result.stderr
