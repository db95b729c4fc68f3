"""Rollbacks under the real daemon: of files, of a batch in training, of damage; and those that it makes."""

import json
import shutil

import numpy as np
import pytest

from learnerd.config import load_config
from learnerd.replay import archived_versions, replay
from learnerd.rollbacks import attributed
from policies.checkpoint import Delta
from policies.ledger import Lineage
from policies.store import CheckpointStore

LOGP = "[admission]\nlogp_tolerance = 0.0\n"

MEANWHILE = """
import os
import learnerd.cycle
from policies.store import CheckpointStore

real, times = learnerd.cycle.Cycle._learn, [0]

def learn_while_somebody_rolls_back(cycle, base, *rest):
    learned = real(cycle, base, *rest)
    if not times[0]:
        times[0] += 1
        CheckpointStore("state").rollback({to}, writer="operator", reason="worse")
    return learned

learnerd.cycle.Cycle._learn = learn_while_somebody_rolls_back
"""


def learn(site, drop, *versions):
    """Deposit an episode of each version and learn; the newest version."""
    for version in versions:
        drop(meta={"policy_version": version})
    assert site.run_here() == 0
    return site.current()


def rollback(site, to, **fields):
    return CheckpointStore(site.state).rollback(to, writer="operator", reason="worse", **fields)


def outcomes(site):
    lines = (site.state / "outcomes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def lineage_ids(site):
    store = CheckpointStore(site.state)
    versions = Lineage.of(store.head()).numbers(1)
    return sorted(entry.key.episode_id for version in versions for entry in store.episodes(version))


def names(count):
    return sorted(f"episode-{i}" for i in range(1, count + 1))


@pytest.fixture
def three(site, drop):
    """A site with versions 1 to 3, each of one episode."""
    site.configure(LOGP)
    for version in (0, 1, 2):
        learn(site, drop, version)
    return site


def test_files_of_rejected_versions_are_refused_with_both_numbers(three, drop):
    site = three
    assert rollback(site, 1).version == 4
    assert learn(site, drop, 1, 2, 3, 4, 0) == 5
    refused = outcomes(site)
    assert [(one["reason"], one["value"]) for one in refused] == [
        ("rejected_version", "2, rejected by the rollback to 1 (version 4)"),
        ("rejected_version", "3, rejected by the rollback to 1 (version 4)"),
    ]
    assert site.status()["episodes"]["refused"] == {"rejected_version": 2}
    assert len(site.files("refused", "rejected_version")) == 2
    assert site.manifest(5)["episodes_total"] == 6
    assert lineage_ids(site) == [f"episode-{i}" for i in (1, 2, 3, 4, 7, 8)]


def test_what_the_rejected_versions_learned_is_still_a_duplicate(three, drop):
    site = three
    rollback(site, 1)
    learned = site.files("archive")[-1]
    shutil.copy(learned, site.inbox / "again.parquet")
    assert site.run_here() == 0
    assert [one["reason"] for one in outcomes(site)] == ["duplicate"]
    assert site.current() == 4


@pytest.mark.parametrize("to", [1, 2])
def test_a_batch_in_training_is_trained_again_on_the_rollback(three, drop, to):
    site = three
    for version in (0, 3, to):
        drop(meta={"policy_version": version})
    assert site.run_patched(MEANWHILE.format(to=to)).returncode == 0
    newest = site.manifest(site.current())
    assert (newest["version"], newest["parents"], newest["merge"]["rebased"]) == (5, [4], False)
    assert newest["episodes_total"] == 5
    assert newest["rejected"] == [[to + 1, 3]]
    assert [one["value"] for one in outcomes(site)] == [f"3, rejected by the rollback to {to} (version 4)"]
    assert '"retrained": 1' in site.log()
    assert lineage_ids(site) == [f"episode-{i}" for i in (1, 2, 3, 4, 6)]
    assert site.files("claimed") == []


def test_a_batch_of_nothing_but_rejected_files_is_refused(three, drop):
    site = three
    for _ in range(3):
        drop(meta={"policy_version": 3})
    assert site.run_patched(MEANWHILE.format(to=2)).returncode == 0
    assert site.current() == 4
    assert site.status()["episodes"]["refused"] == {"rejected_version": 3}
    assert site.files("claimed") == []


def test_a_running_daemon_goes_on_from_a_rollback_that_it_did_not_make(three, drop):
    site = three
    process = site.start()
    assert site.learnerd("versions", "rollback", "1", "--reason", "fell").returncode == 0
    drop(meta={"policy_version": 3})
    drop(meta={"policy_version": 4})
    site.wait(lambda: site.current() == 5, what="the next version")
    assert site.manifest(5)["parents"] == [4]
    site.wait(lambda: site.status()["policy"]["version"] == 5, what="the status")
    site.wait(lambda: "rolled_back" in alarms(site), what="the notice")
    assert alarms(site)["rolled_back"]["level"] == "notice"
    message = alarms(site)["rolled_back"]["message"]
    assert "version 4 has the weights of version 1; 2 to 3 are rejected: fell" in message
    assert site.stop(process) == 0
    assert site.status()["episodes"]["refused"] == {"rejected_version": 1}


@pytest.mark.parametrize("to", [1, 2])
@pytest.mark.slow
def test_replay_goes_back_where_the_daemon_did(three, drop, to):
    site = three
    rollback(site, to)
    for _ in range(2):
        learn(site, drop, 4)
    rollback(site, 5)
    learn(site, drop, 7)
    config = load_config(site.folder / "config.toml", {})
    rows = list(replay(config, archived_versions(config), scratch=site.folder / "scratch"))
    assert [row.recorded for row in rows] == [1, 2, 3, 5, 6, 8]
    assert all(row.same_weights for row in rows)


@pytest.mark.slow
def test_archived_episodes_of_rejected_versions_are_not_replayed(site, drop):
    site.configure(LOGP + "[batch]\nreuse = 3.0\n")
    for version in (0, 1, 2):
        learn(site, drop, version, version, version)
    rollback(site, 1)
    learn(site, drop, 4, 4)
    (update,) = site.manifest(5)["record"]["updates"]
    acted = {name: i // 3 for i, name in enumerate(f"episode-{n}" for n in range(1, 10))}
    assert update["replayed"]
    assert {acted[row[2]] for row in update["replayed"]} == {0, 1}
    assert all(row[0] in (1, 2) for row in update["replayed"] if acted[row[2]] == 1)


def damage(site, version, name):
    path = site.state / "checkpoints" / f"{version:08d}" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_rollback_is_made_again(three, drop):
    site = three
    rollback(site, 1)
    damage(site, 4, "model.safetensors")
    assert learn(site, drop, 0) == 6
    made = site.manifest(5)
    assert (made["rollback"]["to"], made["rejected"], made["parents"]) == (1, [[2, 4]], [3, 1])
    assert site.manifest(6)["parents"] == [5]
    (alarm,) = [one for one in site.status()["alarms"] if one["id"] == "version_damaged"]
    assert "the rollback to 1 has been made again" in alarm["message"]
    assert lineage_ids(site) == names(4)


def test_damage_on_a_rejected_branch_brings_no_rejected_weights_back(three, drop):
    site = three
    store = CheckpointStore(site.state)
    store.publish(Delta(weights={}, counters={"updates": 1}), base=store.head(), writer="online", episodes=[])
    damage(site, 4, "model.safetensors")
    rollback(site, 1)
    assert learn(site, drop, 0) == 6
    assert site.manifest(6)["parents"] == [5]
    assert not (site.state / "checkpoints" / "00000004").exists()
    (alarm,) = [one for one in site.status()["alarms"] if one["id"] == "version_damaged"]
    assert "version 3 was rejected by the rollback to 1 (version 5)" in alarm["message"]


AUTO = (
    LOGP
    + """
[rollback]
mode = "{mode}"
level = 0.01
min_episodes = 8
[batch]
min_episodes = 8
max_wait_s = 0.1
"""
)


def play(site, drop, version, reward, count=16):
    """Files of a version whose episodes return about so much, until they are learned or refused."""
    before = len(site.ledger_ids()) + refused(site)
    for i in range(count):
        drop(meta={"policy_version": version}, reward=[reward + 0.1 * (i % 5), *([0.0] * 4)])
    site.wait(lambda: len(site.ledger_ids()) + refused(site) >= before + count, what="the files")


def refused(site):
    path = site.state / "outcomes.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def alarms(site):
    document = json.loads((site.state / "status.json").read_bytes())
    return {alarm["id"]: alarm for alarm in document["alarms"]}


def rollbacks(site):
    return [v for v in range(1, site.current() + 1) if "rollback" in site.manifest(v)]


def listed(site):
    return {row["version"]: row for row in json.loads(site.learnerd("versions", "list", "--json").stdout)}


def decline(site, drop):
    """Clients earn 100 with one version, then 1 with a later one; both versions."""
    play(site, drop, 0, 50.0, count=8)
    good = site.current()
    play(site, drop, good, 100.0)
    bad = site.current()
    assert bad > good
    play(site, drop, bad, 1.0, count=8)
    return good, bad


def test_a_worse_version_is_rolled_back_once_with_an_alarm_that_says_what_to_do(site, drop):
    site.configure(AUTO.format(mode="auto"))
    process = site.start()
    good, bad = decline(site, drop)
    site.wait(lambda: "rolled_back" in alarms(site), what="the alarm")
    alarm, (by,) = alarms(site)["rolled_back"], rollbacks(site)
    done = site.manifest(by)
    assert (done["rollback"]["to"], done["writer"]) == (good, "daemon")
    assert done["rollback"]["rejected"] == [[good + 1, by - 1]]
    assert alarm["level"] == "alarm"
    assert f"version {by} has the weights of version {good}" in alarm["message"]
    assert f"version {bad} returned 1." in alarm["message"]
    assert f"`learnerd versions rollback {by - 1}` takes the rollback back" in alarm["remedy"]
    assert "version_worse" not in alarms(site)
    assert site.learnerd("status").returncode == 4
    assert site.learnerd("versions", "rollback", str(good)).returncode == 9
    head = site.current()
    play(site, drop, bad, 1.0, count=3)
    assert (site.current(), refused(site)) == (head, 3)
    assert site.stop(process) == 0
    rows = listed(site)
    assert (rows[good]["live"]["n"], rows[bad]["live"]["n"]) == (16, 8)
    assert rows[good]["live"]["mean"] == pytest.approx(100.2, abs=0.2)
    assert (rows[bad]["rejected_by"], rows[by]["rollback_to"]) == (by, good)


@pytest.mark.slow
def test_after_a_rollback_what_the_old_weights_earn_now_is_the_measure(site, drop):
    """A world that became harder is rolled back once, not again and again; the alarm outlives a restart."""
    site.configure(AUTO.format(mode="auto"))
    process = site.start()
    decline(site, drop)
    site.wait(lambda: "rolled_back" in alarms(site), what="the alarm")
    alarm = alarms(site)["rolled_back"]
    assert site.stop(process) == 0
    process = site.start()
    assert alarms(site)["rolled_back"]["message"] == alarm["message"]
    for _ in range(3):
        play(site, drop, site.current(), 1.0, count=8)
    site.wait(lambda: "rolled_back" not in alarms(site), what="the end of the alarm")
    assert len(rollbacks(site)) == 1
    assert site.stop(process) == 0


def test_an_alarm_alone_names_the_version_to_go_back_to_and_ends_when_that_is_done(site, drop):
    site.configure(AUTO.format(mode="alarm"))
    process = site.start()
    good, _ = decline(site, drop)
    site.wait(lambda: "version_worse" in alarms(site), what="the alarm")
    assert f"`learnerd versions rollback {good}` goes back" in alarms(site)["version_worse"]["remedy"]
    assert rollbacks(site) == []
    assert site.stop(process) == 0
    process = site.start()
    assert "version_worse" in alarms(site)
    assert site.learnerd("versions", "rollback", str(good)).returncode == 0
    play(site, drop, site.current(), 100.0, count=8)
    site.wait(lambda: "rolled_back" in alarms(site), what="the notice")
    assert alarms(site)["rolled_back"]["level"] == "notice"
    assert "version_worse" not in alarms(site)
    assert site.stop(process) == 0


def test_what_cannot_be_attributed_is_not_counted(make_episode):
    steps, mixed = np.array([2, 2, 2]), np.array([2, 2, 3])
    assert attributed(make_episode(policy_version=4)) == 4
    assert attributed(make_episode(policy_version=None)) is None
    assert attributed(make_episode(policy_version=0)) is None
    assert attributed(make_episode(policy_version=None, policy_version_step=steps)) == 2
    assert attributed(make_episode(policy_version=None, policy_version_step=mixed)) is None
    assert attributed(make_episode(policy_version=None, policy_version_step=0 * steps)) is None
    assert attributed(make_episode(policy_version=4, incomplete=True)) is None
    assert attributed(make_episode(policy_version=4, segment=7)) == 4
