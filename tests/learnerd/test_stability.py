"""Updates beyond a limit: set aside with their reason, and as though they had never been tried."""

import json
import shutil

import numpy as np
import pytest

from experience.archive import read_shard
from learnerd.config import ConfigError, load_config
from learnerd.replay import archived_versions, replay
from policies.store import CheckpointStore

IMPOSSIBLE = np.full(5, -500.0)
"""Log-probabilities that no client can have drawn actions with: ratios of e^499."""


def alarms(site):
    document = json.loads((site.state / "status.json").read_bytes())
    return {alarm["id"]: alarm for alarm in document["alarms"]}


def status(site):
    return json.loads((site.state / "status.json").read_bytes())


def replays_to_the_bit(site):
    config = load_config(site.folder / "config.toml", {})
    rows = list(replay(config, archived_versions(config), scratch=site.folder / "scratch"))
    return rows and all(row.same_weights for row in rows)


def test_the_episode_to_blame_is_set_aside_and_its_neighbors_are_learned(site, drop):
    site.configure("[batch]\nmin_episodes = 12\nchunk_episodes = 4")
    for i in range(12):
        drop(**({"logp": IMPOSSIBLE} if i == 5 else {}))
    assert site.run_here() == 0
    assert status(site)["episodes"]["refused"] == {"unstable": 1}
    assert status(site)["episodes"]["learned"] == 11
    assert "episode-6" not in site.ledger_ids()
    assert site.files("claimed") == []
    (refused,) = site.files("refused", "unstable")
    (episode,) = read_shard(refused)
    assert episode.episode_id == "episode-6"
    (record,) = [json.loads(line) for line in (site.state / "outcomes.jsonl").read_text().splitlines()]
    assert (record["reason"], record["field"]) == ("unstable", "ratio_max")
    assert "1e+30" in record["accepted"]
    assert float(record["value"]) > 1e30
    alarm = alarms(site)["update_unstable"]
    assert "ratio_max" in alarm["message"]
    assert "refused/unstable" in alarm["remedy"]
    assert replays_to_the_bit(site)


def test_a_bad_batch_leaves_no_trace_in_the_weights(site, drop):
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    before = site.current()
    for _ in range(8):
        drop(logp=IMPOSSIBLE)
    assert site.run_here() == 0
    assert site.current() == before
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    assert site.current() == before + 1
    assert status(site)["episodes"]["refused"] == {"unstable": 8}
    assert CheckpointStore(site.state).head().counters["updates"] == 2
    assert replays_to_the_bit(site)


def test_where_no_episode_alone_is_to_blame_the_update_is_set_aside_whole(site, drop):
    site.configure("[stability]\nmax_kl = 1e-9\n[batch]\nmin_episodes = 8\nchunk_episodes = 4")
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    assert status(site)["episodes"]["refused"] == {"unstable": 8}
    assert site.current() is None
    assert "kl is" in alarms(site)["update_unstable"]["message"]
    assert site.learnerd("status").returncode != 0


def test_a_limit_of_0_is_off(site, drop):
    site.configure("[stability]\nmax_ratio = 0.0")
    for i in range(8):
        drop(**({"logp": IMPOSSIBLE} if i == 5 else {}))
    assert site.run_here() == 0
    assert status(site)["episodes"]["refused"] == {}
    assert status(site)["episodes"]["learned"] == 8


@pytest.mark.parametrize("setting", ["alarm", "refuse", "off"])
def test_a_collapsed_policy_raises_an_alarm_and_is_learned_from(site, drop, setting):
    site.configure(f'[stability]\nmin_entropy_fraction = 1.0\nentropy_collapse = "{setting}"')
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    assert status(site)["episodes"]["learned"] == 8
    assert ("entropy_collapse" in alarms(site)) is (setting != "off")
    site.configure("")
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    assert "entropy_collapse" not in alarms(site)


def test_status_shows_what_an_update_did_and_what_the_network_can_still_learn(site, drop):
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    learning = json.loads(site.learnerd("status", "--json").stdout)["learning"]
    assert learning["value_loss"] > 0
    assert learning["grad_norm"] > 0
    assert learning["value_grad_norm"] > 0
    assert learning["ratio_max"] == pytest.approx(1.0, abs=0.1)
    for figures in (learning["plasticity"], learning["plasticity"]["value"]):
        assert figures["dormant_fraction"] == 0.0
        assert 1 < figures["effective_rank"] <= 40  # of 40 observations
        assert 10 < figures["weight_norm"] < 15
    assert "effective rank" in site.learnerd("status").stdout


def test_a_drop_of_the_returns_is_a_notice_that_outlives_a_restart(site, drop):
    site.configure("[batch]\nchunk_episodes = 40")
    for _ in range(40):
        drop()
    for _ in range(12):
        drop(reward=np.full(5, -5.0))
    assert site.run_here() == 0
    notice = alarms(site)["return_drift"]
    assert notice["level"] == "notice"
    assert "now -" in notice["message"]
    assert site.run_here() == 9
    assert alarms(site)["return_drift"]["message"] == notice["message"]
    assert "return_drift" not in json.loads(site.learnerd("status", "--json").stdout)["learning"]
    site.configure("[stability]\ndrift_alarm = false")
    assert site.run_here() == 9
    assert "return_drift" not in alarms(site)


def test_remedies_replay_to_the_bit(site, drop):
    site.configure("[learner]\nseed = 3\nl2_init = 1e-2\nshrink_perturb = 1e-2\n[batch]\nchunk_episodes = 4")
    for _ in range(2):
        for _ in range(8):
            drop()
        assert site.run_here() == 0
    assert replays_to_the_bit(site)
    site.configure("[learner]\nseed = 3\n[batch]\nchunk_episodes = 4")
    shutil.rmtree(site.folder / "scratch")
    assert not replays_to_the_bit(site)


def test_layer_normalization_reaches_the_policy_and_replays(site, drop):
    site.configure("[policy]\nlayer_norm = true")
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    assert site.manifest(site.current())["spec"]["layer_norm"] is True
    assert replays_to_the_bit(site)
    site.configure("[policy]\nlayer_norm = false")
    with pytest.raises(ConfigError, match="layer_norm"):
        site.run_here()
