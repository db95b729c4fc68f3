"""Files of old versions, with and without log-probabilities, right and wrong, through the real daemon."""

import json

import numpy as np
import pytest

from policies.behavior import log_probs
from policies.store import CheckpointStore

SPACES = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
[store]
keep_last = 1
keep_every = 0
keep_minutes = 0.0
[batch]
chunk_episodes = 1
[stability]
starvation_episodes = 3
"""
PRUNE_OFTEN = "import learnerd.maintenance; learnerd.maintenance.PRUNE_EVERY = 1"


def acted(site, drop, version, *, off=0.0, **fields):
    """An episode in which ``version`` acted, its log-probabilities wrong by ``off``."""
    rng = np.random.default_rng(version)
    obs, action = rng.normal(size=(6, 3)).astype(np.float32), np.arange(5) % 2
    logp = log_probs(CheckpointStore(site.state).actor(version), obs[:5], action)
    logp[3] -= off
    return drop(obs=obs, action=action, logp=logp, meta={"policy_version": version}, **fields)


def outcomes(site):
    path = site.state / "outcomes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_pruned_version_still_gives_what_was_not_logged_and_what_was_logged_wrong(site, drop):
    site.configure(SPACES)
    for _ in range(6):
        drop()
    assert site.run_patched(PRUNE_OFTEN).returncode == 0, site.log()
    for _ in range(3):
        drop()
    assert site.run_patched(PRUNE_OFTEN).returncode == 0, site.log()
    assert not (site.state / "checkpoints" / "00000001").exists()
    assert (site.state / "actors" / "00000001.safetensors").exists()
    assert "log-probabilities" not in site.learnerd("status").stdout

    drop(meta={"policy_version": 1}, logp=None)
    drop(meta={"policy_version": None}, logp=None)
    acted(site, drop, 1)
    acted(site, drop, 1, off=0.02)
    assert site.run_patched(PRUNE_OFTEN).returncode == 0, site.log()
    status = site.status()
    assert status["learning"]["logp"] == {"logged": 10, "recovered": 1, "missing": 1}
    assert status["episodes"]["learned"] == 12
    assert status["episodes"]["refused"] == {"logp_mismatch": 1}
    (record,) = outcomes(site)
    assert record["field"] == "logp[3]"
    claimed, _, given = record["value"].partition(", version 1 gives ")
    assert abs(float(given) - float(claimed) - 0.02) < 1e-5
    shown = " ".join(site.learnerd("status").stdout.split())
    assert "10 episodes logged them, 1 by their version, 1 have none: a weaker rule" in shown


@pytest.mark.slow
def test_a_client_that_only_sends_what_is_refused_raises_an_alarm_until_it_is_fed(site, drop):
    site.configure(SPACES)
    process = site.start()
    for _ in range(3):
        drop(meta={"policy_version": 999, "client_id": "lost"})
        drop(meta={"client_id": "fed"})

    def alarms():
        document = json.loads((site.state / "status.json").read_bytes())
        return {alarm["id"]: alarm for alarm in document["alarms"]}

    site.wait(lambda: "client_starved" in alarms(), what="the alarm")
    alarm = alarms()["client_starved"]
    assert "client 'lost' (3 of its last 3: unknown_version)" in alarm["message"]
    assert "'fed'" not in alarm["message"]
    assert "versions of this state folder" in alarm["remedy"]
    assert site.learnerd("status").returncode == 4
    drop(meta={"client_id": "lost"})
    site.wait(lambda: "client_starved" not in alarms(), what="the end of the alarm")
    assert site.stop(process) == 0


def test_a_batch_that_is_too_stale_is_split_or_moves_the_value_alone_and_status_says_so(site, drop):
    site.configure(
        """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
normalize = false
[admission]
logp_tolerance = 0.0
[learner]
noise_scale = true
"""
    )
    fresh = np.full(5, np.log(0.5))
    far = np.where(np.arange(5) == 2, -9.0, fresh)  # one step outweighs all others
    drop(logp=fresh, meta={"policy_version": 1})
    assert site.run_here() == 0
    assert site.status()["learning"]["policy_updates"] == {"whole": 1, "split": 0, "value_only": 0}
    assert "too stale" not in site.learnerd("status").stdout

    drop(logp=far, meta={"policy_version": 1})
    drop(logp=fresh, meta={"policy_version": 2})
    assert site.run_here() == 0
    drop(logp=far, meta={"policy_version": 1})
    before = CheckpointStore(site.state).head().weights
    assert site.run_here() == 0
    after = CheckpointStore(site.state).head().weights
    changed = {name.split(".")[0] for name in after if not np.array_equal(before[name], after[name])}
    assert changed == {"value"}
    learning = site.status()["learning"]
    assert learning["policy_updates"] == {"whole": 1, "split": 1, "value_only": 1}
    assert "noise_scale_steps" in learning
    shown = " ".join(site.learnerd("status").stdout.split())
    assert "1 updates split by version, 1 for the value network only" in shown
