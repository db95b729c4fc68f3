import json
import os
import subprocess
import sys

import pytest

from learnerd import versions
from policies.manifest import describe, encode_manifest

FILES = {"model.safetensors": b"weights", "optimizer.safetensors": b"moments", "ledger.parquet": b"keys"}


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def publish(state, version, **fields):
    folder = state / "checkpoints" / f"{version:08d}"
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    manifest = {
        "schema": 1,
        "version": version,
        "parents": [version - 1] if version > 1 else [],
        "writer": "dæmon",
        "saved_at": 1000.0 + version,
        "episodes_total": 8 * version,
        "updates_total": version,
        "files": describe(FILES),
        **fields,
    }
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    (state / "CURRENT").write_text(f"{version:08d}\n")
    return folder


def command(state, *arguments):
    (state.parent / "config.toml").write_text("")
    return subprocess.run(
        [sys.executable, "-m", "learnerd", "versions", *arguments],
        cwd=state.parent,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_no_versions(state):
    assert versions.numbers(state) == []
    assert versions.current(state) is None
    assert command(state, "list").stdout == "no version yet\n"
    assert json.loads(command(state, "list", "--json").stdout) == []
    missing = command(state, "show", "1")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


def test_whole_versions(state):
    publish(state, 2)
    publish(state, 10)
    (state / "checkpoints" / ".tmp-11").mkdir()
    listed = json.loads(command(state, "list", "--json").stdout)
    assert listed == [
        {
            "version": version,
            "current": version == 10,
            "parents": [version - 1],
            "writer": "dæmon",
            "saved_at": 1000.0 + version,
            "episodes_total": 8 * version,
            "updates_total": version,
            "return_mean": None,
            "live": None,
            "held": False,
            "pinned": False,
            "rollback_to": None,
            "rejected_by": None,
            "damage": [],
        }
        for version in (2, 10)
    ]
    shown = command(state, "show", "10", "--json")
    assert shown.returncode == 0
    document = json.loads(shown.stdout)
    assert document["damage"] == []
    assert document["manifest"]["writer"] == "dæmon"
    assert document["files"]["model.safetensors"] == {
        "bytes": 7,
        "sha256": describe(FILES)["model.safetensors"]["sha256"],
        "state": "ok",
    }
    assert "current" in command(state, "list").stdout
    assert "model.safetensors: 7 bytes, sha256 ok" in command(state, "show", "10").stdout


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_told(state, name):
    path = publish(state, 1) / name
    path.write_bytes(bytes([FILES[name][0] ^ 1]) + FILES[name][1:])
    assert versions.details(state, 1)["files"][name]["state"] == "wrong"
    result = command(state, "show", "1")
    assert result.returncode == 1
    assert f"DAMAGED: {name}: sha256 is " in result.stdout


@pytest.mark.parametrize("cut", [None, b"weigh"])
def test_a_missing_or_cut_file_is_told_by_the_list(state, cut):
    path = publish(state, 1) / "model.safetensors"
    path.unlink() if cut is None else path.write_bytes(cut)
    (damage,) = versions.summaries(state)[0]["damage"]
    assert damage.startswith("model.safetensors: ")
    assert versions.details(state, 1)["damage"]
    assert "model.safetensors: " in command(state, "list").stdout


def test_every_flipped_bit_of_a_manifest_is_told(state):
    path = publish(state, 1) / "manifest.json"
    whole = path.read_bytes()
    for position in range(len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert versions.details(state, 1)["damage"], position


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"files": 3}', '{"files": {"../x": {}}}', "[" * 100_000]
)
def test_what_is_no_manifest_is_told(state, text):
    (publish(state, 1) / "manifest.json").write_text(text)
    assert versions.summaries(state)[0]["damage"]
    assert versions.details(state, 1)["damage"]


def test_a_manifest_cannot_point_elsewhere(state, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    files = {"../../../secret": {"sha256": "0", "bytes": 1}, **describe(FILES)}
    publish(state, 1, files=files)
    assert "../../../secret" not in versions.details(state, 1)["files"]


@pytest.mark.parametrize("text", ["", "x", "0000000", "00000001x", "\xff"])
def test_a_torn_current_is_no_version(state, text):
    publish(state, 1)
    (state / "CURRENT").write_bytes(text.encode("latin-1"))
    assert versions.current(state) is None
