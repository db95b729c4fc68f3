"""``learnerd evaluate`` on a store and an archive whose true returns are known."""

import json
from functools import partial

import numpy as np
import pytest

from experience.episode import Episode
from experience.spool import Spool
from policies.acting import Acting
from policies.behavior import log_probs
from policies.checkpoint import Delta, LedgerEntry
from policies.distributions import categorical_sample
from policies.forward import policy_outputs
from policies.initial import initial_checkpoint
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(2,), normalize=False)
STEPS = 5


def play(policy, version, rng, name, *, logged):
    """Action 1 earns 1."""
    obs = rng.normal(size=(STEPS + 1, 2)).astype(np.float32)
    action = categorical_sample(policy_outputs(policy.weights, policy.spec, policy.normalizer, obs[:-1]), rng)
    return Episode(
        episode_id=name,
        obs=obs,
        action=action,
        reward=action.astype(np.float64),
        logp=log_probs(policy, obs[:-1], action) if logged else None,
        terminated=True,
        truncated=False,
        policy_version=version,
    )


@pytest.fixture
def site(tmp_path):
    """Versions 1 to 4: each takes action 1 more often; each learned from 40 episodes of the one before."""

    def build(*, logged=True):
        (tmp_path / "config.toml").write_text("")
        store, spool = CheckpointStore(tmp_path / "state"), Spool(tmp_path / "spool", writer="daemon")
        rng = np.random.default_rng(0)
        head = store.publish(
            Delta(weights={}), base=initial_checkpoint(SPEC, seed=0), writer="daemon", episodes=[]
        )
        for version in range(2, 5):
            episodes = [play(head, version - 1, rng, f"{version}-{i}", logged=logged) for i in range(40)]
            head = store.publish(
                Delta(weights={"policy.1.bias": np.array([0.0, 0.4])}, counters={"updates": 1}),
                base=head,
                writer="daemon",
                episodes=[LedgerEntry(key=e.key, row_sha256=e.row_sha256) for e in episodes],
                acting=Acting(version=2, held=True) if version > 2 else Acting(),
            )
            spool.archive(version, episodes, published_at=1000.0, note="")
        return tmp_path

    return build


@pytest.fixture
def evaluate(tmp_path, in_process):
    return partial(in_process, tmp_path, "evaluate")


def test_values_with_intervals_shares_and_where_the_probabilities_are_from(site, evaluate):
    site()
    document = json.loads(evaluate("--json", "--gamma", "1").out)
    rows = document["versions"]
    assert (document["schema"], document["gamma"], document["against"]) == (1, 1.0, None)
    assert document["sources"] == {"logged": 120, "recovered": 0, "missing": 0}
    assert [row["version"] for row in rows] == [1, 2, 3, 4]
    assert [row["learned_from"] for row in rows] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    values = [row["value"] for row in rows]
    assert values == sorted(values)
    for row, chance in zip(rows, (1 / (1 + np.exp(-0.4 * k)) for k in range(4)), strict=True):
        assert row["low"] - 0.1 <= STEPS * chance <= row["high"] + 0.1
        assert (row["method"], row["probabilities"], row["n_episodes"]) == ("cwpdis", "logged", 120)
        assert len(row["ess_per_step"]) == STEPS
    text = evaluate("3", "--method", "wdr").out
    assert "wdr, discount 0.99, 120 episodes, 600 steps; log-probabilities: 120 logged" in text
    assert "--unseen takes others only" in text


def test_differences_from_the_acting_version(site, evaluate):
    site()
    document = json.loads(evaluate("2", "4", "--against", "live", "--json").out)
    assert document["against"] == 2
    same, newest = document["versions"]
    assert (same["value"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    assert newest["low"] > 0.0
    assert "return - that of 2" in evaluate("4", "--against", "2").out


def test_only_unseen_episodes(site, evaluate):
    site()
    (row,) = json.loads(evaluate("2", "--unseen", "--json").out)["versions"]
    assert (row["n_episodes"], row["learned_from"]) == (80, 0.0)
    (row,) = json.loads(evaluate("2", "--against", "3", "--unseen", "--json").out)["versions"]
    assert row["n_episodes"] == 40
    assert "episodes: none learned after version 4; accepted: two or more" in evaluate("--unseen", code=1).err


def test_recovered_probabilities_are_used_and_named(site, evaluate):
    site(logged=False)
    document = json.loads(evaluate("4", "--json").out)
    assert document["sources"] == {"logged": 0, "recovered": 120, "missing": 0}
    assert document["versions"][0]["probabilities"] == "recovered"


def test_a_log_without_probabilities_is_refused(site, evaluate):
    folder = site(logged=False)
    (folder / "state/checkpoints/00000001/model.safetensors").write_bytes(b"")
    refused = evaluate("4", code=1).err
    assert "logp: 40 of 120 episodes have none, nor has the version that acted; accepted: one for" in refused
    document = json.loads(evaluate("4", "--leave-out", "--json").out)
    assert document["sources"] == {"logged": 0, "recovered": 80, "missing": 40}
    assert document["versions"][0]["n_episodes"] == 80


def test_bad_questions_are_named(site, evaluate, tmp_path):
    (tmp_path / "config.toml").write_text("")
    assert "no version or no archived episode" in evaluate(code=9).err
    assert "no version acts yet" in evaluate("--against", "live", code=9).err
    site()
    assert "version: 9 is not there, or damaged; accepted: one of" in evaluate("9", code=1).err
    assert "--method guess; accepted: cwpdis, wis" in evaluate("--method", "guess", code=2).err
    assert "--level: 1.5; accepted: between 0 and 1" in evaluate("--level", "1.5", code=2).err
    assert "--against x; accepted: live, or" in evaluate("--against", "x", code=2).err
