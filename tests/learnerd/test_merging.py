"""The daemon and an online learner at the same time, through the real daemon."""

import json

import numpy as np
import pytest

from learnerd.config import load_config
from learnerd.learn import chunked, learn
from policies import merge
from policies.store import CheckpointStore

MEANWHILE = """
import os
import numpy as np
import learnerd.cycle
from policies.checkpoint import Delta
from policies.store import CheckpointStore

real, times = learnerd.cycle.Cycle._learn, [0]

def learn_while_another_publishes(cycle, base, *rest):
    learned = real(cycle, base, *rest)
    if base.version and times[0] < {times}:
        times[0] += 1
        store = CheckpointStore("state")
        head = store.head()
        change = {{"policy.0.bias": np.full(head.weights["policy.0.bias"].shape, 0.5)}}
        store.publish(Delta(weights=change), base=head, writer="online", episodes=[])
    return learned

learnerd.cycle.Cycle._learn = learn_while_another_publishes
"""


@pytest.fixture
def published(site, drop):
    """A site whose daemon has published once."""

    def prepare(config):
        site.configure(config)
        for _ in range(3):
            drop()
        assert site.learnerd("run", "--until-idle").returncode == 0
        for _ in range(4):
            drop()
        return site.current()

    return prepare


def test_beyond_the_drift_limit_the_batch_is_trained_again_on_the_new_head(site, published):
    first = published("[merge]\ndrift_limit = 0.01\n")
    assert site.run_patched(MEANWHILE.format(times=2)).returncode == 0
    newest = site.manifest(site.current())
    assert newest["version"] == first + 3
    assert newest["parents"] == [first + 2]
    assert newest["merge"] == {"rebased": False, "weight": 1.0}
    assert newest["episodes_total"] == 7
    assert '"retrained": 2' in site.log()
    _assert_trained_on(site, first + 2)


def _assert_trained_on(site, version):
    """Learn the recorded episodes once more from ``version``: the same weights."""
    store = CheckpointStore(site.state)
    config = load_config(site.folder / "config.toml", {})
    again = learn(
        store.load(version),
        chunked(site.archived(version + 1), config.batch.chunk_episodes),
        settings=config.learner.settings(),
        seed=config.learner.seed,
        device="cpu",
        behavior=lambda _: None,
    )
    expected = merge.apply(store.load(version), again.delta).weights
    assert not np.array_equal(expected["policy.0.weight"], store.load(version).weights["policy.0.weight"])
    for name, array in store.head().weights.items():
        assert np.array_equal(array, expected[name]), name


def test_within_the_drift_limit_it_is_merged(site, published):
    first = published("[merge]\ndrift_limit = 1000.0\n")
    assert site.run_patched(MEANWHILE.format(times=1)).returncode == 0
    newest = site.manifest(site.current())
    assert newest["parents"] == [first + 1, first]
    assert newest["merge"]["rebased"] is True
    assert 0.01 < newest["merge"]["drift"] < 1000.0
    assert newest["parents_saved_at"] == [site.manifest(v)["saved_at"] for v in newest["parents"]]
    assert newest["merge"]["theirs_saved_at"] == site.manifest(first + 1)["saved_at"]
    assert newest["merge"]["ours_saved_at"] == newest["saved_at"]


@pytest.mark.slow
def test_a_head_that_never_rests_keeps_the_batch_and_says_what_to_do(site, published):
    published("[merge]\ndrift_limit = 0.01\n[schedule]\nrescan_s = 0.1\n")
    assert site.run_patched(MEANWHILE.format(times=1000)).returncode == 5
    assert len(site.files("claimed")) == 4
    document = json.loads((site.state / "status.json").read_bytes())
    (alarm,) = [alarm for alarm in document["alarms"] if alarm["id"] == "publish_failed"]
    assert "drift_limit" in alarm["remedy"]
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert site.manifest(site.current())["episodes_total"] == 7
