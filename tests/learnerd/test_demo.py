"""The demo as real processes, and its parts."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experience.archive import read_shard

ROOT = Path(__file__).parents[2]
CLIENTS = {"cartpole-library", "cartpole-contract"}


def demo(folder, *options, **env):
    """Start ``learnerd demo`` in a folder; its scratch folder is below ``folder/tmp``."""
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "learnerd", "demo", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_that_name(text):
    """Pids of the processes whose command line holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(condition, what, timeout_s=60.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def test_an_unsolved_demo_learns_and_leaves_its_curve(tmp_path):
    # 100 episodes of 475 steps take two clients 12 s at 2,000 steps a second each: 11 s cannot be enough.
    scratch = tmp_path / "scratch"
    out, err = (running := demo(tmp_path, "--timeout", "11", "--json", "--dir", str(scratch))).communicate()

    assert running.returncode == 1, err
    (line,) = out.splitlines()
    outcome = json.loads(line)
    assert set(outcome) == {"solved", "mean_return", "episodes", "versions", "seconds", "plot"}
    assert outcome["solved"] is False
    assert outcome["versions"] >= 1
    assert outcome["seconds"] >= 11
    assert Path(outcome["plot"]) == tmp_path / "learnerd-demo.png"
    assert Path(outcome["plot"]).read_bytes().startswith(b"\x89PNG")
    assert "not solved within 11 s" in err
    assert str(scratch / "daemon.log") in err

    status = json.loads((scratch / "state" / "status.json").read_bytes())
    assert status["daemon"]["state"] == "stopped"
    assert status["episodes"]["quarantined"] == {}
    shards = (scratch / "spool" / "archive").rglob("*.parquet")
    episodes = [episode for shard in shards for episode in read_shard(shard)]
    assert len(episodes) == status["episodes"]["learned"]
    assert {episode.client_id for episode in episodes} <= CLIENTS  # on a busy machine one may start late
    assert {Path(episode.source_name).suffix for episode in episodes} <= {".npz", ".jsonl"}
    assert processes_that_name(str(scratch)) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_solves_cartpole(tmp_path):
    out, err = (running := demo(tmp_path, "--json")).communicate()
    assert running.returncode == 0, err
    outcome = json.loads(out)
    assert outcome["solved"]
    assert outcome["mean_return"] >= 475
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_ends_everything_and_cleans_up(tmp_path, number):
    running = demo(tmp_path, "--plot", "curve.png")
    outputs = [f"{name}.out" for name in ("client-library", "client-contract")]

    def is_playing():
        return all(any(file.stat().st_size for file in tmp_path.glob(f"tmp/*/{name}")) for name in outputs)

    wait_until(is_playing, "both clients to report")
    running.send_signal(number)
    out, err = running.communicate(timeout=60)

    assert running.returncode == 130, err
    assert "interrupted after" in out
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_that_name(str(tmp_path)) == []


def test_a_killed_demo_leaves_no_process(tmp_path):
    scratch = tmp_path / "scratch"
    running = demo(tmp_path, "--dir", str(scratch))
    wait_until((scratch / "client-contract.out").exists, "the clients to start")
    wait_until(lambda: len(processes_that_name(str(scratch))) >= 4, "demo, daemon and two clients")
    running.kill()
    running.communicate()
    wait_until(lambda: processes_that_name(str(scratch)) == [], "daemon and clients to follow")


def test_a_daemon_that_ends_ends_the_demo_with_its_log(tmp_path):
    running = demo(tmp_path, "--json", LEARNERD_BATCH_MIN_EPISODES="0")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert out == ""
    assert "the daemon ended by itself (exit code 6)" in err
    assert "min_episodes" in err
    (scratch,) = (tmp_path / "tmp").iterdir()
    assert str(scratch / "daemon.log") in err
    assert processes_that_name(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--dir", "full"), "not empty"),
        (("--plot", "missing/curve.png"), "there is no folder missing"),
        (("--rate", "inf"), "finite"),
        (("--timeout", "0"), "--timeout"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path, options, complaint):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    running = demo(tmp_path, *options, COLUMNS="200")
    _, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert complaint in err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_missing_extra_is_named(tmp_path):
    hide = "import sys; sys.modules['gymnasium'] = None; from learnerd.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", hide, "demo"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 2
    assert "gymnasium" in found.stderr
    assert "pip install 'learnerd[demo]'" in found.stderr


def test_the_client_by_contract_imports_nothing_of_ours():
    tree = ast.parse((ROOT / "learnerd/demo/clients/by_contract.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"gymnasium", "numpy", "safetensors"}
