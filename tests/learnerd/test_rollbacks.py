"""What the daemon does about a finding: whether, to which version, and what it says when it cannot."""

import shutil
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from learnerd.config import Config
from learnerd.rollbacks import Rollbacks
from policies.checkpoint import Delta
from policies.initial import initial_checkpoint
from policies.manifest import version_folder
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

SPEC = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), hidden=(3,))


class Trainer:
    """Does each job at once."""

    def submit(self, job):
        future = Future()
        try:
            future.set_result(job())
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


class Reporter:
    """Remembers what it was told last."""

    def __init__(self):
        self.finding, self.failure, self.told, self.version = None, "", None, None

    def head(self, head):
        self.version = head.version

    def version_worse(self, finding, failure):
        self.finding, self.failure = finding, failure

    def rolled_back(self, told):
        self.told = told


@pytest.fixture
def site(tmp_path, make_episode):
    """A store with six versions, and the rollbacks of a daemon that has just begun."""

    def build(mode):
        state = tmp_path / "state"
        store, reporter = CheckpointStore(state), Reporter()
        head = initial_checkpoint(SPEC, seed=0)
        for _ in range(6):
            change = Delta(weights={"policy.0.bias": np.ones(3)}, counters={"updates": 1})
            head = store.publish(change, base=head, writer="daemon", episodes=[])
        config = Config.model_validate(
            {
                "paths": {"spool": tmp_path / "spool", "state": state},
                "rollback": {"mode": mode, "level": 0.01, "min_episodes": 8},
            }
        )
        rollbacks = Rollbacks(config, store=store, trainer=Trainer(), reporter=reporter)
        rollbacks.restore()

        def learn(version, returns):
            rewards = [np.array([value, 0.0, 0.0]) for value in returns]
            episodes = [make_episode(policy_version=version, reward=reward) for reward in rewards]
            learned = SimpleNamespace(episodes=episodes)
            rollbacks.note(SimpleNamespace(head=store.head(), learned=learned))
            for _ in range(3):
                rollbacks.step()

        return SimpleNamespace(state=state, store=store, reporter=reporter, learn=learn, look=rollbacks.look)

    return build


def decline(site):
    """Versions 2 and 3 are good together, 4 is not."""
    site.learn(2, range(100, 105))
    site.learn(3, range(105, 110))
    site.learn(4, range(8))


@pytest.mark.parametrize(
    ("mode", "finding", "version"), [("off", False, 6), ("alarm", True, 6), ("auto", False, 7)]
)
def test_the_mode_decides(site, mode, finding, version):
    found = site(mode)
    decline(found)
    assert (found.reporter.finding is not None, found.store.head().version) == (finding, version)
    assert (found.reporter.told is not None) == (mode == "auto")


def test_it_goes_back_to_the_first_version_of_the_better_stretch(site):
    found = site("auto")
    decline(found)
    assert found.store.head().manifest["rollback"]["to"] == 2
    assert found.reporter.told["rejected"] == [3, 6]
    assert found.reporter.version == 7


def test_to_the_next_one_when_that_is_gone(site):
    found = site("auto")
    shutil.rmtree(version_folder(found.state, 2))
    decline(found)
    assert found.store.head().manifest["rollback"]["to"] == 3


def test_when_all_are_gone_it_says_so_and_tries_again(site):
    found = site("auto")
    kept = version_folder(found.state, 3).rename(found.state / "kept")
    shutil.rmtree(version_folder(found.state, 2))
    decline(found)
    assert found.store.head().version == 6
    assert "nothing is left of versions 2 to 3: raise [store] keep_last" in found.reporter.failure
    kept.rename(version_folder(found.state, 3))
    found.look()
    found.learn(5, [50.0])
    assert found.store.head().manifest["rollback"]["to"] == 3
    assert (found.reporter.finding, found.reporter.failure) == (None, "")


def test_it_leaves_alone_what_somebody_else_rolled_back(site):
    found = site("auto")
    found.learn(2, range(100, 110))
    CheckpointStore(found.state).rollback(3, writer="operator", reason="quicker")
    found.learn(4, range(8))
    found.look()
    found.learn(5, [])
    assert found.store.head().version == 7
    assert (found.reporter.told["reason"], found.reporter.told["automatic"]) == ("quicker", False)


def test_a_recovery_ends_the_alarm(site):
    found = site("alarm")
    decline(found)
    found.learn(5, range(102, 110))
    assert found.reporter.finding is None
