import importlib.util
import os

import pytest

from learnerd import checks
from learnerd.config import Config

FOLDERS = ("in", "claimed", "work", "archive", "refused", "quarantine")


@pytest.fixture
def config(tmp_path):
    for name in FOLDERS:
        (tmp_path / "spool" / name).mkdir(parents=True)
    (tmp_path / "state").mkdir()
    return Config.model_validate({"paths": {"spool": tmp_path / "spool", "state": tmp_path / "state"}})


def verdicts(config):
    return {check.name: check for check in checks.run_checks(config)}


def test_a_good_machine(config, tmp_path):
    found = verdicts(config)
    assert {check.verdict for check in found.values()} <= {"ok", "warning"}
    assert found["torch"].found[0].isdigit()
    assert all(check.remedy or check.verdict == "ok" for check in found.values())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_torch(config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert verdicts(config)["torch"].verdict == "failure"
    assert "pip install torch" in verdicts(config)["torch"].remedy


@pytest.mark.parametrize(("name", "folder"), [("spool", "spool/in"), ("state", "state")])
def test_a_folder_that_is_missing(config, tmp_path, name, folder):
    (tmp_path / folder).rmdir()
    assert verdicts(config)[name].verdict == "failure"
    assert folder in verdicts(config)[name].found


def test_a_spool_across_file_systems(config, monkeypatch):
    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    check = verdicts(config)["renames"]
    assert (check.verdict, check.remedy) == ("failure", "keep the whole spool on one file system")
    assert "cross-device" in check.found


def test_a_file_system_without_fsync(config, monkeypatch):
    def refuse(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    assert verdicts(config)["fsync"].verdict == "failure"


@pytest.mark.parametrize(("free", "verdict"), [(2**20, "failure"), (2**29, "warning"), (2**31, "ok")])
def test_free_space(config, monkeypatch, free, verdict):
    monkeypatch.setattr(checks, "_free_bytes", lambda folder: free)
    assert verdicts(config)["free space"].verdict == verdict
