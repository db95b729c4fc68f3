"""Versions that clients do not act with, under the real daemon: shadow mode, promotion, and a bad update."""

import json

import numpy as np
import pytest

from learnerd import live_returns
from policies.behavior import log_probs
from policies.distributions import categorical_sample
from policies.forward import policy_outputs
from policies.rollback import Rejected
from policies.store import CheckpointStore

POLICY = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
hidden = [8]
"""
SHADOW = POLICY + '[gate]\nmode = "shadow"\n'
ENFORCE = POLICY + '[gate]\nmode = "enforce"\nmin_episodes = 16\nmax_held_episodes = 32\n'


SPOIL = """
from dataclasses import replace
import numpy as np
import learnerd.cycle

real = learnerd.cycle.learn

def learn(base, *rest, **options):
    learned = real(base, *rest, **options)
    if base.version != 2:
        return learned
    weights = {{**learned.delta.weights, "policy.1.bias": np.array([{bias}, -{bias}])}}
    return replace(learned, delta=replace(learned.delta, weights=weights))

learnerd.cycle.learn = learn
"""
"""The update of version 2 takes the policy to an action that earns nothing."""


def play(site, drop, rng, *, episodes=8):
    """Act with what CURRENT names; action 1 earns 1."""
    version = site.current()
    policy = CheckpointStore(site.state).load(version)
    for _ in range(episodes):
        obs = rng.normal(size=(6, 3)).astype(np.float32)
        outputs = policy_outputs(policy.weights, policy.spec, policy.normalizer, obs[:-1])
        action = categorical_sample(outputs, rng)
        drop(
            obs=obs,
            action=action,
            reward=action.astype(float),
            logp=log_probs(policy, obs[:-1], action),
            meta={"policy_version": version},
        )


def learned(site):
    return json.loads((site.state / "status.json").read_bytes())["episodes"]["learned"]


def test_shadow_mode_learns_and_publishes_and_only_the_operator_moves_current(site, drop):
    site.configure(SHADOW)
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    store = CheckpointStore(site.state)
    assert (store.head().version, site.current()) == (2, None)
    assert store.head().counters["episodes"] == 8
    rows = json.loads(site.learnerd("versions", "list", "--json").stdout)
    assert [(row["version"], row["current"], row["held"]) for row in rows] == [
        (1, False, True),
        (2, False, True),
    ]
    assert site.status()["gate"]["mode"] == "shadow"
    done = site.learnerd("versions", "promote", "2", "--reason", "looks good", "--json")
    assert json.loads(done.stdout) == {"version": 3, "acting": 2, "reason": "looks good"}
    assert site.current() == 2
    again = site.learnerd("versions", "promote", "2")
    assert (again.returncode, "version 2 acts" in again.stderr) == (9, True)
    assert site.learnerd("versions", "promote", "7").returncode == 1
    for _ in range(8):
        drop()
    assert site.run_here() == 0
    assert (store.head().version, site.current()) == (4, 2)
    assert "version 4 acts from now on" not in site.learnerd("versions", "promote").stdout
    assert site.current() == 5
    assert sorted(site.ledger_ids()) == sorted(f"episode-{i}" for i in range(1, 17))


@pytest.mark.parametrize("bias", [0.8, pytest.param(4.0, marks=pytest.mark.slow)])
def test_a_bad_update_never_goes_live_and_every_episode_stays_learned_once(site, drop, bias):
    """With 4.0 it is so bad that nothing can be learned on from it within the limits of stability."""
    site.configure(ENFORCE)
    daemon = site.start(SPOIL.format(bias=bias))
    assert site.current() == 1
    rng, currents = np.random.default_rng(0), []
    for count in range(1, 13):
        play(site, drop, rng)
        site.wait(lambda n=count: learned(site) == 8 * n, what=f"batch {count}")
        currents.append(site.current())
    gate = json.loads((site.state / "status.json").read_bytes())["gate"]
    assert site.stop(daemon) == 0
    store = CheckpointStore(site.state)
    head, rejected = store.head(), Rejected.of(store.head())
    assert currents == sorted(currents)
    assert currents[-1] > rejected.rejections[0].by
    assert (gate["mode"], gate["acting"]) == ("enforce", currents[-1])
    assert rejected.find(3) is not None
    assert 3 not in currents
    assert live_returns.read_live(site.state).of(3) is None
    ids = sorted(f"episode-{i}" for i in range(1, 97))
    assert sorted(site.ledger_ids()) == sorted(site.archived_ids()) == ids
    assert head.counters["episodes"] == 96
    gates = [store.manifest(v)["record"].get("gate") for v in range(2, head.version)]
    (failed,) = (gate for gate in gates if gate and gate["outcome"] == "failed")
    text = site.learnerd("versions", "show", str(failed["candidate"])).stdout
    assert f"gate: failed against version {failed['against']}" in text
