import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from store_tools import SPEC, delta, entries, entry, initial, publish, scalar

from policies.checkpoint import Average
from policies.errors import NewerRelease, NotAVersion, VersionDamaged, VersionPruned
from policies.manifest import (
    encode_manifest,
    read_actor,
    read_checkpoint,
    read_current,
    read_manifest,
    version_folder,
)
from policies.normalizer import RunningStatistics
from policies.store import CheckpointStore


@pytest.fixture
def published(state):
    name = "policy.0.weight"
    averages = {
        f"adam_m.{name}": Average(value=np.full(SPEC.shapes()[name], 0.5, np.float32), retained=0.1),
        "prox_weight": scalar(3.5, 0.2),
    }
    seen = RunningStatistics.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
    change = delta(2.0, averages=averages, observed=seen)
    return CheckpointStore(state).publish(change, base=initial(), writer="online", episodes=entries("a", "b"))


def test_a_version_reads_back_as_it_was_published(state, published):
    again = read_checkpoint(state, 1)
    assert again.spec == SPEC
    assert (again.version, again.parents, again.writer) == (1, (), "online")
    assert again.counters == {"updates": 1, "episodes": 2}
    for one, two in ((again.weights, published.weights), (again.averages, published.averages)):
        assert one.keys() == two.keys()
        for name in one:
            assert one[name].dtype == two[name].dtype
            assert one[name].shape == two[name].shape
            assert one[name].tobytes() == two[name].tobytes()
            assert not one[name].flags.writeable
    assert again.normalizer.count == 2.0
    assert again.normalizer.mean.tolist() == [2.0, 3.5]
    assert again.manifest == json.loads((version_folder(state, 1) / "manifest.json").read_bytes())


def test_the_manifest_tells_what_a_replay_needs(published):
    manifest = published.manifest
    assert [key[:2] for key in manifest["keys"]] == [["c", "a"], ["c", "b"]]
    assert manifest["delta_counters"] == {"updates": 1}
    assert set(manifest["files"]) == {
        "model.safetensors",
        "optimizer.safetensors",
        "ledger.parquet",
        "delta.safetensors",
    }


def test_an_actor_reads_the_model_alone(state, published):
    for name in ("optimizer.safetensors", "ledger.parquet", "delta.safetensors"):
        (version_folder(state, 1) / name).unlink()
    spec, weights, normalizer, manifest = read_actor(state, 1)
    assert spec == SPEC
    assert weights["policy.0.bias"].tobytes() == published.weights["policy.0.bias"].tobytes()
    assert normalizer.count == 2.0
    assert manifest["version"] == 1


def test_every_flipped_bit_is_noticed(state, published):
    folder = version_folder(state, 1)
    noticed = 0
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for i in range(len(whole)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << (i * 5) % 8]) + whole[i + 1 :])
            with pytest.raises(VersionDamaged):
                read_checkpoint(state, 1)
            noticed += 1
        path.write_bytes(whole)
    assert noticed > 4000
    read_checkpoint(state, 1)


def test_every_flipped_bit_of_a_manifest_is_noticed(state, published):
    path = version_folder(state, 1) / "manifest.json"
    whole = path.read_bytes()
    for i in range(0, 8 * len(whole), 3):  # every bit position of every third byte
        flipped = whole[: i // 8] + bytes([whole[i // 8] ^ 1 << i % 8]) + whole[i // 8 + 1 :]
        path.write_bytes(flipped)
        with pytest.raises(VersionDamaged):
            read_manifest(path.parent, 1)


def test_every_cut_is_noticed(state, published):
    for path in version_folder(state, 1).iterdir():
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(VersionDamaged):
                read_checkpoint(state, 1)
        path.write_bytes(whole + b"\0")
        with pytest.raises(VersionDamaged):
            read_checkpoint(state, 1)
        path.unlink()
        with pytest.raises(VersionDamaged, match=path.name):
            read_checkpoint(state, 1)
        path.write_bytes(whole)


def test_a_version_under_another_number_is_damaged(state, published):
    shutil.copytree(version_folder(state, 1), version_folder(state, 2))
    with pytest.raises(VersionDamaged, match="is of version 1"):
        read_checkpoint(state, 2)


def test_a_newer_schema_is_refused_not_overruled(state, published):
    path = version_folder(state, 1) / "manifest.json"
    path.write_bytes(encode_manifest({**json.loads(path.read_bytes()), "schema": 2}))
    with pytest.raises(NewerRelease, match="schema is 2; accepted: 1"):
        CheckpointStore(state).head()


def test_pruned_and_unknown_versions_are_told_apart(state):
    store = CheckpointStore(state)
    publish(store, publish(store, initial(), 1), 1)
    shutil.rmtree(version_folder(state, 1))
    with pytest.raises(VersionPruned):
        read_actor(state, 1)
    with pytest.raises(NotAVersion):
        read_actor(state, 3)


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b"00000012\n", 12),
        (b"00000012", 12),
        (b"0000001", None),
        (b"", None),
        (b"00000000\n", None),
        (b"00000012\n\n", None),
        (b"-0000012", None),
        (b"\xff0000012", None),
        ("٠٠٠٠٠٠١٢".encode(), None),
    ],
)
def test_a_torn_current_names_nothing(tmp_path, content, version):
    assert read_current(tmp_path) is None
    (tmp_path / "CURRENT").write_bytes(content)
    assert read_current(tmp_path) == version


def test_file_names_that_are_no_text_are_kept_as_escapes(state):
    store = CheckpointStore(state)
    odd = entry(
        "a", source_name=b"caf\xe9\n.npz".decode("utf-8", "surrogateescape"), n_steps=3, total_reward=1.5
    )
    store.publish(delta(), base=initial(), writer="daemon", episodes=[odd])
    (again,) = CheckpointStore(state).episodes(1)
    assert again.source_name == "caf\\udce9\n.npz"
    assert (again.key, again.n_steps, again.total_reward, again.policy_version) == (odd.key, 3, 1.5, None)


def test_reading_a_version_loads_neither_pyarrow_nor_filelock_nor_torch(state, published):
    code = (
        "import sys; from policies.manifest import read_actor; read_actor(sys.argv[1], 1);"
        "print([m for m in ('pyarrow', 'filelock', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, state], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
