import json

import pytest

from learnerd.version_rows import newest_rows


@pytest.fixture
def publish(tmp_path):
    """A version's folder with no more than rows are made of."""

    def write(number, **manifest):
        folder = tmp_path / "checkpoints" / f"{number:08d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"1234")
        files = {"model.safetensors": {"bytes": 4, "sha256": ""}}
        (folder / "manifest.json").write_text(json.dumps({"files": files, "parents": [], **manifest}))

    return write


@pytest.fixture(autouse=True)
def _unsealed(monkeypatch):
    monkeypatch.setattr("learnerd.versions._is_sealed", lambda _: True)


def standings(state):
    return {row["version"]: row["standing"] for row in newest_rows(state)}


def test_what_rollbacks_pins_and_damage_make_of_versions(tmp_path, publish):
    for number in range(1, 7):
        publish(number)
    publish(7, rejected=[[4, 6]], rollback={"to": 3, "rejected": [[4, 6]], "reason": "worse"})
    (tmp_path / "CURRENT").write_text("00000007\n")
    (tmp_path / "pins").mkdir()
    for name in ("00000002", "00000005", "notes"):
        (tmp_path / "pins" / name).touch()
    (tmp_path / "checkpoints" / "00000006" / "model.safetensors").unlink()
    found = standings(tmp_path)
    assert list(found) == [7, 6, 5, 4, 3, 2, 1]
    assert found == {7: "current", 6: "damaged", 5: "rejected", 4: "rejected", 3: "", 2: "pinned", 1: ""}
    assert [row["rollback_to"] for row in newest_rows(tmp_path)] == [3, *6 * [None]]


@pytest.mark.parametrize("rejected", [None, 3, "x", [3], [[1]], [["1", 2]], {"a": 1}, [[1, 2, 3]]])
def test_manifests_of_other_releases_are_no_error(tmp_path, publish, rejected):
    publish(1, rejected=rejected, rollback=rejected)
    assert standings(tmp_path) == {1: ""}


def test_no_versions(tmp_path):
    assert newest_rows(tmp_path) == []
