import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies import manifest
from policies.actor import Actor
from policies.behavior import log_probs
from policies.errors import NoPolicyYet
from policies.initial import initial_checkpoint
from policies.manifest import describe, encode_manifest, encode_model, version_folder
from policies.normalizer import RunningStatistics
from policies.spec import ContinuousSpace, DiscreteSpace, PolicySpec

DISCRETE = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=3), hidden=(8,))
CONTINUOUS = replace(DISCRETE, action=ContinuousSpace(size=2), normalize=True)
LARGE = replace(DISCRETE, action=DiscreteSpace(n=40))
LONG_AGO_NS = 1_000_000_000 * 1_700_000_000


def checkpoint(spec=DISCRETE, seed=0, scale=30.0):
    first = initial_checkpoint(spec, seed=seed, log_std=-0.3)
    head = f"policy.{len(spec.hidden)}.weight"
    rows = np.random.default_rng(seed).normal(3.0, 2.0, (50, spec.inputs))
    weights = {**first.weights, head: first.weights[head] * np.float32(scale)}
    return replace(first, weights=weights, normalizer=RunningStatistics.of(rows))


def write_version(state, version, policy):
    """A version directory as the store writes it, as far as acting reads it."""
    folder = version_folder(state, version)
    aside = folder.with_name(f".tmp-{version}")
    aside.mkdir(parents=True)
    files = {"model.safetensors": encode_model(policy.weights, policy.normalizer)}
    manifest = {
        "schema": 1,
        "version": version,
        "spec": policy.spec.to_json(),
        "files": describe(files),
    }
    (aside / "model.safetensors").write_bytes(files["model.safetensors"])
    (aside / "manifest.json").write_bytes(encode_manifest(manifest))
    aside.rename(folder)


def point(state, version, *, settled=False):
    aside = Path(state, ".tmp-CURRENT")
    aside.write_text(f"{version:08d}\n")
    if settled:
        os.utime(aside, ns=(LONG_AGO_NS, LONG_AGO_NS + version))
    aside.rename(Path(state, "CURRENT"))


def publish(state, version, policy, *, settled=False):
    write_version(state, version, policy)
    point(state, version, settled=settled)


def test_nothing_published(tmp_path):
    actor = Actor(tmp_path / "not-there-yet")
    assert actor.version is None
    assert actor.problem is None
    assert actor.refresh() is False
    with pytest.raises(NoPolicyYet):
        actor.act(np.zeros(4, np.float32))


def test_first_version_is_taken_up(tmp_path):
    actor = Actor(tmp_path)
    publish(tmp_path, 1, checkpoint())
    assert actor.refresh() is True
    assert actor.version == 1
    assert actor.refresh() is False
    action, logp = actor.act(np.zeros(4, np.float32))
    assert type(action) is int
    assert type(logp) is float
    assert 0 <= action < 3
    assert logp < 0


@pytest.mark.parametrize("spec", [DISCRETE, LARGE, replace(DISCRETE, normalize=True, activation="relu")])
def test_log_probability_is_what_the_learner_computes_again(tmp_path, spec):
    policy = checkpoint(spec)
    publish(tmp_path, 1, policy)
    actor = Actor(tmp_path, seed=1)
    rng = np.random.default_rng(2)
    n = spec.action.n
    obs = rng.normal(3, 2, (200, 4)).astype(np.float32)
    mask = rng.random((200, n)) < 0.7
    mask[:, 0] |= ~mask.any(axis=1)
    drawn = [actor.act(row, mask=allowed) for row, allowed in zip(obs, mask, strict=True)]
    action = np.array([a for a, _ in drawn])
    logged = np.array([logp for _, logp in drawn])
    assert mask[np.arange(200), action].all()
    assert len(set(action.tolist())) > 1
    np.testing.assert_allclose(logged, log_probs(policy, obs, action, mask), atol=5e-7, rtol=0)


def test_continuous_action_is_the_raw_sample_and_its_own(tmp_path):
    policy = checkpoint(CONTINUOUS)
    publish(tmp_path, 1, policy)
    actor = Actor(tmp_path, seed=1)
    obs = np.random.default_rng(2).normal(3, 2, (500, 4)).astype(np.float32)
    drawn = [actor.act(row) for row in obs]
    action = np.stack([a for a, _ in drawn])
    assert action.dtype == np.float32
    assert action.shape == (500, 2)
    assert np.abs(action).max() > 1.5
    assert len(np.unique(action)) == 1000
    logged = np.array([logp for _, logp in drawn])
    np.testing.assert_allclose(logged, log_probs(policy, obs, action), atol=2e-6, rtol=0)


def test_gaussian_has_the_mean_and_the_deviation_of_the_checkpoint(tmp_path):
    policy = checkpoint(CONTINUOUS, scale=0.0)
    publish(tmp_path, 1, policy)
    actor = Actor(tmp_path, seed=3)
    action = np.stack([actor.act(np.ones(4))[0] for _ in range(4000)])
    np.testing.assert_allclose(action.mean(axis=0), 0.0, atol=5 * 0.75 / 4000**0.5)
    np.testing.assert_allclose(action.std(axis=0), np.exp(-0.3), rtol=5 / (2 * 4000) ** 0.5)


@pytest.mark.parametrize(("spec", "masked"), [(DISCRETE, False), (DISCRETE, True), (LARGE, False)])
def test_frequencies_are_the_probabilities(tmp_path, spec, masked):
    policy = checkpoint(spec, scale=300.0)
    publish(tmp_path, 1, policy)
    actor = Actor(tmp_path, seed=5)
    n = spec.action.n
    obs = np.array([0.3, -0.2, 0.5, 0.1], np.float32)
    mask = np.arange(n) != 1 if masked else None
    counts = np.bincount([actor.act(obs, mask=mask)[0] for _ in range(4000)], minlength=n)
    rows = None if mask is None else np.tile(mask, (n, 1))
    expected = 4000 * np.exp(log_probs(policy, np.tile(obs, (n, 1)), np.arange(n), rows))
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert expected[possible].max() > 2 * expected[possible].min()
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 3.1 * (2 * freedom) ** 0.5 + 4


def test_same_seed_same_actions(tmp_path):
    publish(tmp_path, 1, checkpoint())
    runs = [[Actor(tmp_path, seed=seed).act(np.zeros(4))] * 1 for seed in (7, 7)]
    assert runs[0] == runs[1]
    actors = [Actor(tmp_path, seed=seed) for seed in (7, 7, 8)]
    series = [[actor.act(np.zeros(4))[0] for _ in range(50)] for actor in actors]
    assert series[0] == series[1] != series[2]


@pytest.mark.parametrize("obs", [np.zeros(5), np.zeros((1, 4)), 0.0])
def test_wrong_observation_names_both_shapes(tmp_path, obs):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    with pytest.raises(ValueError, match=r"observation has shape .*; the policy's is \(4,\)"):
        actor.act(obs)


@pytest.mark.parametrize("spec", [DISCRETE, LARGE])
def test_wrong_mask_is_refused(tmp_path, spec):
    publish(tmp_path, 1, checkpoint(spec))
    actor = Actor(tmp_path)
    with pytest.raises(ValueError, match="mask has shape"):
        actor.act(np.zeros(4), mask=[True, False])
    with pytest.raises(ValueError, match="at least one"):
        actor.act(np.zeros(4), mask=[False] * spec.action.n)


def test_continuous_policy_takes_no_mask(tmp_path):
    publish(tmp_path, 1, checkpoint(CONTINUOUS))
    with pytest.raises(ValueError, match="continuous"):
        Actor(tmp_path).act(np.zeros(4), mask=[True])


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS])
def test_observation_that_is_no_number_gives_no_action(tmp_path, spec):
    publish(tmp_path, 1, checkpoint(spec))
    with pytest.raises(ValueError, match="nan"):
        Actor(tmp_path).act(np.array([0, np.nan, 0, 0]))


def test_images_are_flattened(tmp_path):
    spec = replace(DISCRETE, observation_shape=(2, 3))
    policy = checkpoint(spec)
    publish(tmp_path, 1, policy)
    actor = Actor(tmp_path, seed=0)
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    action, logp = actor.act(image)
    assert logp == pytest.approx(log_probs(policy, image[None], np.array([action]))[0], abs=5e-7)


def test_unchanged_is_neither_read_nor_hashed(tmp_path, monkeypatch):
    publish(tmp_path, 1, checkpoint(), settled=True)
    actor = Actor(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("policies.actor.read_current", None)
        patch.setattr("policies.actor.read_actor", None)
        assert actor.refresh() is False
    publish(tmp_path, 2, checkpoint(seed=1), settled=True)
    assert actor.refresh() is True
    assert actor.version == 2


def test_replacement_that_leaves_the_same_stat_is_seen(tmp_path, monkeypatch):
    publish(tmp_path, 1, checkpoint())
    stat = (tmp_path / "CURRENT").stat()
    monkeypatch.setattr("policies.actor.os.stat", lambda _path: stat)
    actor = Actor(tmp_path)
    publish(tmp_path, 2, checkpoint(seed=1))
    assert actor.refresh() is True
    assert actor.version == 2


def test_same_version_named_again_is_no_change(tmp_path, monkeypatch):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    point(tmp_path, 1)
    monkeypatch.setattr("policies.actor.read_actor", None)
    assert actor.refresh() is False
    assert actor.problem is None


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"0000000", b"00000002x", b"\xff" * 8, b"00000000\n", b"00000002\n3"]
)
@pytest.mark.parametrize("settled", [False, True])
def test_torn_current_keeps_the_last_good_version(tmp_path, text, settled):
    publish(tmp_path, 1, checkpoint())
    write_version(tmp_path, 2, checkpoint(seed=1))
    actor = Actor(tmp_path)
    (tmp_path / "CURRENT").write_bytes(text)
    if settled:
        os.utime(tmp_path / "CURRENT", ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert actor.refresh() is False
    assert actor.version == 1
    assert "names no version" in actor.problem
    actor.act(np.zeros(4))
    point(tmp_path, 2)
    assert actor.refresh() is True
    assert (actor.version, actor.problem) == (2, None)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_damaged_version_keeps_the_last_good_one(tmp_path, name):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path, seed=0)
    write_version(tmp_path, 2, checkpoint(seed=1))
    file = version_folder(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    for bit in rng.choice(len(data) * 8, 40, replace=False).tolist():
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        point(tmp_path, 2)
        assert actor.refresh() is False
        assert actor.version == 1
        assert "version 2 is damaged" in actor.problem
    actor.act(np.zeros(4))
    publish(tmp_path, 3, checkpoint(seed=2))
    assert actor.refresh() is True
    assert actor.version == 3


def test_damage_is_hashed_once_not_at_every_refresh(tmp_path, monkeypatch):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    write_version(tmp_path, 2, checkpoint(seed=1))
    (version_folder(tmp_path, 2) / "model.safetensors").write_bytes(b"")
    point(tmp_path, 2, settled=True)
    assert actor.refresh() is False
    monkeypatch.setattr("policies.actor.read_actor", None)
    assert actor.refresh() is False
    assert "damaged" in actor.problem


def test_pruned_version_keeps_the_last_good_one(tmp_path):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    point(tmp_path, 2, settled=True)
    assert actor.refresh() is False
    assert actor.version == 1
    assert "version 2" in actor.problem
    write_version(tmp_path, 2, checkpoint(seed=1))
    assert actor.refresh() is True
    assert actor.version == 2


def test_version_pruned_while_it_was_read_gives_the_next_one(tmp_path, monkeypatch):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    point(tmp_path, 2)

    def overtaken(state, version, *, real=manifest.read_actor):
        if version == 2:
            publish(tmp_path, 3, checkpoint(seed=2))
        return real(state, version)

    monkeypatch.setattr("policies.actor.read_actor", overtaken)
    assert actor.refresh() is True
    assert actor.version == 3


def test_disk_error_is_tried_again(tmp_path, monkeypatch):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    publish(tmp_path, 2, checkpoint(seed=1), settled=True)

    def too_many_files(*_args):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("policies.actor.read_actor", too_many_files)
        assert actor.refresh() is False
        assert "Too many open files" in actor.problem
    assert actor.refresh() is True
    assert actor.problem is None


def test_never_an_older_version_after_a_newer_one(tmp_path):
    publish(tmp_path, 1, checkpoint())
    publish(tmp_path, 2, checkpoint(seed=1))
    actor = Actor(tmp_path)
    point(tmp_path, 1)
    assert actor.refresh() is False
    assert actor.version == 2
    assert "older than 2" in actor.problem


def test_current_that_goes_away_keeps_the_last_good_version(tmp_path):
    publish(tmp_path, 1, checkpoint())
    actor = Actor(tmp_path)
    (tmp_path / "CURRENT").unlink()
    assert actor.refresh() is False
    assert actor.version == 1
    actor.act(np.zeros(4))


def test_client_acts_on_under_a_busy_publisher(tmp_path):
    """Versions tell themselves apart: version v prefers action v % 3 with certainty."""

    def certain(version):
        policy = checkpoint()
        bias = np.full(3, -50, np.float32)
        bias[version % 3] = 50
        weights = {name: np.zeros_like(array) for name, array in policy.weights.items()}
        return replace(policy, weights={**weights, "policy.1.bias": bias})

    publish(tmp_path, 1, certain(1))
    actor = Actor(tmp_path)
    stop = threading.Event()
    published = [1]

    def publisher():
        while not stop.is_set():
            version = published[-1] + 1
            publish(tmp_path, version, certain(version))
            if version % 5 == 0:
                point(tmp_path, version - 3)
            published.append(version)
            old = version_folder(tmp_path, version - 1)
            old.rename(old.with_name(f".tmp-gone-{version}"))

    thread = threading.Thread(target=publisher)
    thread.start()
    seen = []
    deadline = time.monotonic() + 10
    try:
        while len(set(seen)) < 30 and time.monotonic() < deadline:
            actor.refresh()
            seen.append(actor.version)
            action, logp = actor.act(np.zeros(4, np.float32))
            assert action == actor.version % 3
            assert logp == pytest.approx(0.0, abs=1e-9)
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)
    assert len(set(seen)) >= 30
    publish(tmp_path, published[-1] + 1, certain(published[-1] + 1))
    actor.refresh()
    assert actor.version == published[-1] + 1


PUBLISHER = """
import sys
import numpy as np
from experience.episode import EpisodeKey
from policies.checkpoint import Delta, LedgerEntry
from policies.initial import initial_checkpoint
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

spec = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=3), hidden=(8,))
store = CheckpointStore(sys.argv[1])
head = initial_checkpoint(spec, seed=0)
for i in range(int(sys.argv[2])):
    delta = Delta(weights={"policy.1.bias": np.array([1.0, 0.0, 0.0])})
    episode = LedgerEntry(key=EpisodeKey("c", str(i), 0, ""), row_sha256="00" * 32)
    head = store.publish(delta, base=head, writer="daemon", episodes=[episode])
    store.prune(keep_last=1, keep_every=0, keep_minutes=0, keep_bytes=0, now_s=head.saved_at + 3600)
"""


def test_versions_that_another_process_publishes_and_prunes_are_taken_up(tmp_path):
    """Every version adds 1 to action 0's logit, so the log-probability tells which version acted."""
    actor = Actor(tmp_path)
    seen = []
    with subprocess.Popen([sys.executable, "-c", PUBLISHER, str(tmp_path), "40"]) as publisher:
        while publisher.poll() is None:
            if actor.refresh():
                seen.append(actor.version)
                only_first = [True, False, False]
                assert actor.act(np.zeros(4), mask=only_first) == (0, 0.0)
                logp = [actor.act(np.zeros(4), mask=[True, False, True]) for _ in range(5)]
                margin = {0: -np.log1p(np.exp(-actor.version)), 2: -np.log1p(np.exp(actor.version))}
                assert all(drawn == pytest.approx(margin[action], abs=1e-6) for action, drawn in logp)
    actor.refresh()
    assert publisher.returncode == 0
    assert (actor.version, actor.problem) == (40, None)
    assert seen == sorted(set(seen))
    assert len(seen) > 5
