"""The guide's online learner, run as it is written, and the daemon train one policy together."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experience import EpisodeWriter
from policies import Actor
from policies.forward import policy_outputs
from policies.store import CheckpointStore

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "learnerd" / "docs" / "online_learner.md"
CONFIG = """
[batch]
min_episodes = 32
chunk_episodes = 32
max_wait_s = 0.5
[admission]
max_staleness = 2000
[store]
keep_last = 2000
"""
ROUNDS = 150
LAST_ROUNDS = 6
GOOD, UNTAUGHT = 0.9, 0.75


def block(language):
    return re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]


@pytest.fixture
def start_online(site):
    """Start the guide's program."""

    def start():
        program = site.folder / "online.py"
        program.write_text(block("python"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, str(program), str(site.state), str(ROUNDS)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        site.processes.append(process)
        return process

    return start


def finish(process):
    """Wait for the guide's program; the mean return of each of its rounds."""
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return [float(line.split()[1]) for line in output.splitlines()]


def correct(site):
    """The newest policy's probability of the right action in each of the four contexts."""
    head = CheckpointStore(site.state).head()
    logits = policy_outputs(head.weights, head.spec, head.normalizer, np.eye(4, dtype=np.float32))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p[range(4), [0, 1, 0, 1]]


def play_into_the_spool(site, until, most=12_000):
    """A client that sees contexts 0 and 1 only, and knows the daemon by its files only."""
    rng, actor, returns = np.random.default_rng(1), Actor(site.state, seed=1), []
    writer = EpisodeWriter(site.folder / "spool", client_id="bot")
    last_rounds = LAST_ROUNDS
    while len(returns) < most and last_rounds:
        actor.refresh()
        for _ in range(16):
            context = int(rng.integers(2))
            observation = np.eye(4, dtype=np.float32)[context]
            action, logp = actor.act(observation)
            reward = float(action == context % 2)
            writer.step(observation, action, reward, logp=logp, policy_version=actor.version)
            writer.end(observation, terminated=True)
            returns.append(reward)
        wait_until_taken(site, but=32)
        last_rounds = last_rounds - 1 if until() else LAST_ROUNDS
    wait_until_taken(site, but=0)
    return returns


def wait_until_taken(site, *, but):
    site.wait(lambda: len(list(site.inbox.iterdir())) <= but, what="the daemon to keep up")


def has_learned(site):
    return bool((correct(site)[:2] > GOOD).all())


def test_both_train_one_policy_and_both_raise_the_return(site, start_online):
    site.configure(block("toml") + CONFIG)
    daemon = site.start()
    assert correct(site).mean() < UNTAUGHT
    online = start_online()
    returns = play_into_the_spool(site, lambda: online.poll() is not None and has_learned(site))
    online_returns = finish(online)
    assert site.stop(daemon) == 0
    assert (correct(site) > GOOD).all(), correct(site)
    assert np.mean(returns[-64:]) > GOOD > UNTAUGHT > np.mean(returns[:64])
    assert np.mean(online_returns[-10:]) > GOOD > UNTAUGHT > online_returns[0]
    manifests = [site.manifest(version) for version in range(2, site.current() + 1)]
    assert {manifest["writer"] for manifest in manifests} == {"daemon", "online"}
    assert sum(manifest["merge"]["rebased"] for manifest in manifests) > 0
    assert manifests[-1]["episodes_total"] == len(returns) + 64 * ROUNDS
    assert manifests[-1]["updates_total"] >= ROUNDS + len(returns) // 64


@pytest.mark.slow
def test_the_online_learner_alone_learns_what_it_sees_and_nothing_else(site, start_online):
    site.configure(block("toml") + CONFIG)
    assert site.learnerd("run", "--once").returncode == 9
    returns = finish(start_online())
    assert np.mean(returns[-10:]) > GOOD
    assert (correct(site)[2:] > GOOD).all()
    assert correct(site)[:2].mean() < UNTAUGHT


@pytest.mark.slow
def test_the_daemon_alone_learns_what_it_sees_and_nothing_else(site):
    site.configure(block("toml") + CONFIG)
    daemon = site.start()
    returns = play_into_the_spool(site, lambda: has_learned(site))
    assert site.stop(daemon) == 0
    assert np.mean(returns[-32:]) > GOOD - 0.1
    assert (correct(site)[:2] > GOOD).all()
    assert correct(site)[2:].mean() < UNTAUGHT
