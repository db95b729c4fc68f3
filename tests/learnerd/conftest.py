"""A daemon as a real process, and files as a client that knows nothing of our code would write them."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experience.archive import read_shard
from learnerd.cli import main

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # for helpers beside the tests
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

PATCHED = """
    import os, sys
    from experience.spool import Spool
    {patch}
    from learnerd.cli import main
    sys.argv[0] = "learnerd"
    main()
"""


@contextlib.contextmanager
def restored_signals():
    """A daemon in this process takes signals; they are given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def own_signals():
    with restored_signals():
        yield


class Site:
    """A folder with a config, a spool and a state, and a daemon over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "spool" / "in"
        self.state = folder / "state"
        self.inbox.mkdir(parents=True)
        self.processes = []
        self.env = dict(ENV)
        self.configure()

    def configure(self, text=""):
        (self.folder / "config.toml").write_text(text)

    def command(self, *arguments):
        return [sys.executable, "-m", "learnerd", *arguments, "--config", str(self.folder / "config.toml")]

    def learnerd(self, *arguments, timeout=100):
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def status(self):
        return json.loads(self.learnerd("status", "--json").stdout)

    def start(self, patch=None, prefix=()):
        """Start the daemon, with ``patch`` applied to it, below ``prefix``, and wait until it is ready."""
        command = [*prefix, *(self.command("run") if patch is None else self.patched(patch, "run"))]
        log = (self.folder / "daemon.log").open("ab")
        process = subprocess.Popen(command, env=self.env, cwd=self.folder, stderr=log, stdout=log)
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
            env=self.env,
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

        with restored_signals():
            return learnerd.daemon.run(load_config(self.folder / "config.toml", {}), mode="until_idle")

    def run_and_crash(self, patch):
        """Run the daemon with ``patch`` applied, which ends it as a kill would."""
        result = self.run_patched(patch)
        assert result.returncode == 77, result.stderr

    def files(self, *parts):
        folder = self.folder.joinpath("spool", *parts)
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


class Manager:
    """A service manager's end of the notification socket; a daemon must never find it full."""

    def __init__(self, folder):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self.address = str(folder / "notify")
        self._lines = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        while message := self._socket.recv(4096):
            for line in message.decode().splitlines():
                self._lines.put(line)

    def wait(self, *wanted):
        """Read up to the first line that is one of ``wanted``; return it."""
        while True:
            line = self._lines.get(timeout=60)
            if line in wanted:
                return line

    def reload(self, process):
        """Send SIGHUP; return the states that the daemon goes through."""
        process.send_signal(signal.SIGHUP)
        return [self.wait("RELOADING=1", "READY=1"), self.wait("RELOADING=1", "READY=1")]

    def next(self, timeout_s=60.0):
        """Return the next line; raise queue.Empty when none comes."""
        return self._lines.get(timeout=timeout_s)

    def close(self):
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(site, tmp_path):
    """Daemons of ``site`` that start from now on report to this manager."""
    manager = Manager(tmp_path)
    site.env["NOTIFY_SOCKET"] = manager.address
    yield manager
    manager.close()


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


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Run a command in this process, in a folder; what it prints."""

    def run(folder, *arguments, code=0):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["learnerd", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed.err
        return printed

    return run
