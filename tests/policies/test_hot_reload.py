"""An actor under a process that publishes every 10 ms: what it does tells which version it is of."""

import subprocess
import sys

import numpy as np
import pytest

from policies import Actor

PUBLISHER = """
import sys, time
import numpy as np
from experience.episode import EpisodeKey
from experience.spaces import BoxSpace, DictSpace, ImageSpace
from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
from policies.spec import ContinuousSpace, PolicySpec
from policies.store import CheckpointStore

state, versions, parts = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "parts"
box = BoxSpace(shape=(1,))
space = DictSpace({"x": box, "y": ImageSpace(shape=(3, 3, 1))}) if parts else box
spec = PolicySpec.of(space, ContinuousSpace(size=1), hidden=(1,), activation="relu")
store = CheckpointStore(state)
head = initial_checkpoint(spec, seed=0)
for version in range(1, versions + 1):
    # version v: every weight is v, but for the deviation, whose logarithm is -v / 1024
    target = {name: np.full(shape, float(version)) for name, shape in spec.shapes().items()}
    target["log_std"] /= -1024
    delta = Delta(weights={name: array - head.weights[name].astype(float) for name, array in target.items()})
    episode = LedgerEntry(key=EpisodeKey("c", str(version), 0, ""), row_sha256="00" * 32)
    began = time.monotonic()
    head = store.publish(delta, base=head, writer="daemon", episodes=[episode])
    if version % 7 == 0:
        store.prune(keep_last=1, keep_every=0, keep_minutes=0, keep_bytes=0, now_s=head.saved_at + 3600)
    time.sleep(max(0.0, began + 0.01 - time.monotonic()))
"""


def expected(version, *, parts):
    """What every weight being v gives for x = 1 and dark pixels: the mean, and the log-density there."""
    features = 1 + (16 * version if parts else 0)  # 16 channels of a 1 x 1 picture, each its bias
    hidden = version * features + version
    return version * hidden + version, version / 1024 - 0.5 * np.log(2 * np.pi)


def follow(state, versions, *, parts):
    """Act and refresh as fast as it goes until the publisher is done; the versions that acted."""
    obs = {"x": np.ones(1), "y": np.zeros((3, 3, 1), np.uint8)} if parts else np.ones(1)
    batch = {"x": np.ones((2, 1)), "y": np.zeros((2, 3, 3, 1), np.uint8)} if parts else np.ones((2, 1))
    actor, seen = Actor(state), []
    arguments = [sys.executable, "-c", PUBLISHER, str(state), str(versions), "parts" if parts else "box"]
    with subprocess.Popen(arguments) as publisher:
        while (running := publisher.poll() is None) or actor.version != versions:
            assert running or publisher.returncode == 0
            actor.refresh()
            if actor.version is None:
                continue
            seen.append(actor.version)
            mean, logp = expected(actor.version, parts=parts)
            action, logged = actor.act(obs, deterministic=True)
            assert action[0] == pytest.approx(mean, rel=1e-6)
            assert logged == pytest.approx(logp, abs=1e-6)
            actions, _ = actor.act_batch(batch, deterministic=True)
            assert actions[:, 0] == pytest.approx([mean] * 2, rel=1e-6)
    return seen


@pytest.mark.parametrize(
    "versions", [30, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
@pytest.mark.parametrize("parts", [False, True], ids=["box", "parts"])
def test_never_a_mixed_version_nor_an_older_one(tmp_path, versions, parts):
    seen = follow(tmp_path, versions, parts=parts)
    assert seen == sorted(seen)
    assert seen[-1] == versions
    assert len(set(seen)) > 5
