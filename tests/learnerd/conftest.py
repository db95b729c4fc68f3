"""A daemon as a real process, and files as a client that knows nothing of our code would write them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experience.archive import read_shard

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

PATCHED = """
    import os, sys
    from experience.spool import Spool
    {patch}
    from learnerd.cli import main
    sys.argv[0] = "learnerd"
    main()
"""


class Site:
    """A folder with a config, a spool and a state, and a daemon over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "spool" / "in"
        self.state = folder / "state"
        self.inbox.mkdir(parents=True)
        self.processes = []
        self.configure()

    def configure(self, text=""):
        (self.folder / "config.toml").write_text(text)

    def command(self, *arguments):
        return [sys.executable, "-m", "learnerd", *arguments, "--config", str(self.folder / "config.toml")]

    def learnerd(self, *arguments, timeout=100):
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=ENV,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def status(self):
        return json.loads(self.learnerd("status", "--json").stdout)

    def start(self, patch=None):
        """Start the daemon, with ``patch`` applied to it, and wait until it is ready."""
        command = self.command("run") if patch is None else self.patched(patch, "run")
        log = (self.folder / "daemon.log").open("ab")
        process = subprocess.Popen(command, env=ENV, cwd=self.folder, stderr=log, stdout=log)
        log.close()
        self.processes.append(process)
        self.wait(lambda: self._running(process), what="the daemon to be ready")
        return process

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def wait(self, condition, *, what, timeout_s=60.0):
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, f"waited in vain for {what}:\n{self.log()}"
            time.sleep(0.02)

    def _running(self, process):
        assert process.poll() is None, self.log()
        path = self.state / "status.json"
        return path.exists() and json.loads(path.read_bytes())["daemon"] | {"pid": process.pid} == json.loads(
            path.read_bytes()
        )["daemon"] | {"state": "running"}

    def log(self):
        path = self.folder / "daemon.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def current(self):
        path = self.state / "CURRENT"
        return int(path.read_text()) if path.exists() else None

    def manifest(self, version):
        return json.loads((self.state / "checkpoints" / f"{version:08d}" / "manifest.json").read_bytes())

    def ledger_ids(self):
        """Every episode id in every version's ledger, with repeats."""
        paths = sorted((self.state / "checkpoints").glob("[0-9]*/ledger.parquet"))
        return [name for path in paths for name in pq.read_table(path).column("episode_id").to_pylist()]

    def archived_ids(self):
        paths = [path for path in self.files("archive") if path.suffix == ".parquet"]
        return [episode.episode_id for path in paths for episode in read_shard(path)]

    def archived(self, version):
        """The episodes of a version's shard, in the order of learning."""
        (path,) = [path for path in self.files("archive") if path.name == f"{version:08d}.parquet"]
        return read_shard(path)

    def patched(self, patch, *arguments):
        """The command line of a daemon with ``patch`` applied."""
        script = textwrap.dedent(PATCHED).replace("{patch}", patch)
        return [sys.executable, "-c", script, *arguments, "--config", str(self.folder / "config.toml")]

    def run_patched(self, patch):
        """Run the daemon until it is idle, with ``patch`` applied."""
        result = subprocess.run(
            self.patched(patch, "run", "--until-idle"),
            env=ENV,
            cwd=self.folder,
            check=False,
            timeout=100,
            capture_output=True,
            text=True,
        )
        (self.folder / "daemon.log").write_text(result.stdout + result.stderr)
        return result

    def run_here(self):
        """Run the daemon until it is idle in this process, which has torch loaded already; its exit code."""
        import learnerd.daemon  # noqa: PLC0415 - loads torch
        from learnerd.config import load_config  # noqa: PLC0415

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return learnerd.daemon.run(load_config(self.folder / "config.toml", {}), mode="until_idle")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run_and_crash(self, patch):
        """Run the daemon with ``patch`` applied, which ends it as a kill would."""
        result = self.run_patched(patch)
        assert result.returncode == 77, result.stderr

    def files(self, *parts):
        folder = self.folder.joinpath("spool", *parts)
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    for process in site.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def drop(site):
    """Deposit one npz episode by the written contract: aside, then renamed."""
    count = 0

    def deposit(name=None, *, steps=5, width=3, meta=None, **arrays):
        nonlocal count
        count += 1
        rng = np.random.default_rng(count)
        values = {
            "obs": rng.normal(size=(steps + 1, width)).astype(np.float32),
            "action": np.arange(steps) % 2,
            "reward": rng.normal(size=steps),
            "logp": np.full(steps, np.log(0.5)),
            **arrays,
        }
        header = {
            "episode_id": f"episode-{count}",
            "client_id": "bot",
            "policy_version": 0,
            "ended_at": time.time(),
            "terminated": True,
            "truncated": False,
            **(meta or {}),
        }
        name = name or f"{count:06d}.npz"
        aside = site.inbox / f".tmp-{name}"
        with aside.open("wb") as stream:
            given = {name: array for name, array in values.items() if array is not None}
            np.savez(stream, meta=np.array(json.dumps(header)), **given)
        aside.rename(site.inbox / name)
        return site.inbox / name

    return deposit
