import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "learnerd.service"


def read_unit():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(UNIT)
    return unit


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: unit UNVERIFIED"
)
def test_systemd_accepts_the_unit():
    result = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in result.stderr.splitlines() if "learnerd.service" in line]
    assert (result.returncode, complaints) == (0, [])


def test_the_unit_waits_for_ready_and_does_not_restart_on_a_bad_config():
    service = read_unit()["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["Restart"] == "on-failure"
    assert "6" in service["RestartPreventExitStatus"].split()
    assert "OMP_WAIT_POLICY=PASSIVE" in service["Environment"]
    assert int(service["WatchdogSec"]) > 0
    assert int(service["TimeoutStopSec"]) > 0


def test_readme_holds_the_command_that_ci_runs():
    script = "sed -n '/<!-- test-command -->/,/<!-- end -->/p' README.md | grep -v -e '^<!--' -e '^```'"
    assert script in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert found.count("\n") == 1
    assert "-e '.[test]'" in found
    assert found.rstrip().endswith("pytest")
