"""The unit under a real systemd: a container that is booted over an overlay of this machine's root."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from learnerd import service

ROOT = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("container") / "boot.sh"
NEEDED = ("systemd-nspawn", "systemd-sysusers", "systemd-tmpfiles", "unshare", "useradd")
MISSING = [name for name in NEEDED if shutil.which(name) is None] + ["root"] * (os.geteuid() != 0)
LIMIT_S = 400


def control_groups():
    roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified")]
    return [root for root in roots if (root / "cgroup.procs").exists()]


@pytest.fixture
def booted(tmp_path):
    """What the scenario saw in the container."""
    name = f"learnerd-test-{os.getpid()}"
    folders = service._hidden([*service.Installation.found().folders, ROOT])
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", str(BOOT)]
    log = tmp_path / "container.log"
    try:
        with log.open("wb") as stream, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*command, str(tmp_path), name, sys.executable, *map(str, folders)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                check=False,
                timeout=LIMIT_S,
                env={**os.environ, "LEARNERD_TEST_ROOT": str(ROOT)},
            )
        found = tmp_path / "out" / "seen.json"
        assert found.exists(), log.read_text(errors="replace")[-6000:]
        yield json.loads(found.read_bytes())
    finally:
        for root in control_groups():
            for folder in sorted(root.glob(f"{name}/**/"), reverse=True):
                folder.rmdir()


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: the unit is UNTESTED under systemd")
def test_start_notify_reload_watchdog_and_drain(booted):
    assert "error" not in booted, "\n".join(booted[name] for name in ("error", "journal", "log"))
    assert booted["start"] == booted["reload"] == booted["stop"] == 0
    started, reloaded, restarted = booted["started"], booted["reloaded"], booted["restarted"]
    assert (started["ActiveState"], started["SubState"]) == ("active", "running")
    assert started["StatusText"] == "version 1, 0 episodes learned"
    assert booted["first_version"] == "00000001"
    assert reloaded["MainPID"] == started["MainPID"]
    assert reloaded["NRestarts"] == "0"
    assert reloaded["StatusText"] == "version 3, 3 episodes learned"
    assert restarted["MainPID"] != started["MainPID"]
    assert restarted["NRestarts"] == "1"
    assert booted["stopped"]["Result"] == "success"
    assert booted["stopped"]["ActiveState"] == "inactive"
    assert booted["learned"] == 7
    assert booted["start elsewhere"] == booted["stop elsewhere"] == 0
    assert booted["owners"] == ["learnerd"]
    assert booted["rights"] == {
        "bot lists": "PermissionError",
        "rival removes": "PermissionError",
        "nobody passes": "PermissionError",
        "bot reads a version": True,
        "bot looks into the archive": "PermissionError",
    }
