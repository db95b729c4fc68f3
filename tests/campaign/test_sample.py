"""A small, deterministic part of the campaign; ``python tests/campaign/run.py`` runs all of it.

Each promise runs in a process of its own, as the campaign's modules put stand-ins into the daemon.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NUMBERS = sorted(int(path.name[1:3]) for path in FOLDER.glob("p[0-9][0-9]_*.py"))


@pytest.mark.parametrize("number", NUMBERS)
def test_the_promise_holds_in_a_sample(tmp_path, number):
    out = tmp_path / "campaign.md"
    command = [sys.executable, FOLDER / "run.py", "--sample", "--only", str(number), "--out", out]
    path = os.pathsep.join(filter(None, [str(FOLDER.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    (row,) = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert row["outcome"]["violations"] == []
    if row["outcome"]["skipped"] and not row["outcome"]["trials"]:
        pytest.skip(row["outcome"]["skipped"])
    assert row["outcome"]["trials"] > 0
    assert f"| {number} |" in out.read_text()
