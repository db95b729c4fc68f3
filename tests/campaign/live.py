"""A live daemon, in a process of its own, over real folders; and files as a client drops them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
START_S = 90.0


class Live:
    """One daemon and its folders.

    Args:
        folder: for config, log and, unless named, spool and state.
        spool, state: elsewhere, as on another file system.
        config: further tables of the config.
        prelude: Python that runs in the daemon's process before the daemon does.
        environment: further variables of the daemon's process.
    """

    def __init__(self, folder, *, spool=None, state=None, config="", prelude="", environment=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spool = Path(spool or self.folder / "spool")
        self.state = Path(state or self.folder / "state")
        self.inbox = self.spool / "in"
        self.process = None
        self.dropped = []
        self._prelude = prelude
        self._environment = environment or {}
        paths = f'[paths]\nspool = "{self.spool}"\nstate = "{self.state}"\n'
        (self.folder / "config.toml").write_text(paths + config)

    def environment(self):
        base = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return {**base, **self._environment}

    def launch(self, *arguments):
        """Start a process and do not wait for it."""
        script = f"import sys\n{self._prelude}\nfrom learnerd.cli import main\nmain()\n"
        command = [sys.executable, "-c", script, *arguments, "--config", str(self.folder / "config.toml")]
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment(), cwd=self.folder, stdout=log, stderr=log)

    def start(self):
        """Start the daemon and wait until it says that it runs."""
        self.process = self.launch("run")
        self.wait(self._is_running, what="the daemon to be ready", timeout_s=START_S)
        return self

    def stop(self, *, how=signal.SIGTERM):
        """End the daemon; returns its exit code."""
        self.process.send_signal(how)
        return self.process.wait(timeout=120)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def is_alive(self):
        return self.process.poll() is None

    def status(self):
        """The status file; {} while there is none."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.state / "status.json").read_bytes())
        return {}

    def alarms(self):
        return {alarm["id"] for alarm in self.status().get("alarms", [])}

    def wait(self, condition, *, what, timeout_s=60.0, poll_s=0.01):
        """Wait for ``condition``; returns the seconds that it took."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}")
            if self.process is not None and not self.is_alive:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}: {self.log()}")
            time.sleep(poll_s)
        return time.monotonic() - begun

    def log(self):
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def learned(self):
        """How often each episode stands in the ledgers of the versions that are there."""
        counts = Counter()
        for folder in (self.state / "checkpoints").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                counts.update(pq.read_table(folder / "ledger.parquet").column("episode_id").to_pylist())
        return counts

    def drop(self, name):
        """Drop one small episode, and note its name."""
        drop(self.inbox, name, episode_text(name))
        self.dropped.append(name)

    def files(self, *parts):
        folder = self.spool.joinpath(*parts)
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []

    def _is_running(self):
        daemon = self.status().get("daemon", {})
        return daemon.get("pid") == self.process.pid and daemon.get("state") == "running"


def episode_text(name, *, steps=2, ended_at=None, action=None):
    """One small episode as a client in any language writes it."""
    head = {"episode_id": name, "client_id": "bot", "policy_version": 0}
    if ended_at is not None:
        head["ended_at"] = ended_at
    lines = [head]
    lines += [
        {"obs": [0.1 * i, 1.0], "action": i % 2 if action is None else action, "reward": 1.0, "logp": -0.69}
        for i in range(steps)
    ]
    lines.append({"final_obs": [0.5, 0.5], "terminated": True, "truncated": False})
    return "".join(json.dumps(line) + "\n" for line in lines)


def drop(inbox, name, text, *, changed_at=None):
    """Write aside, then rename; ``changed_at`` gives the file's time of last change."""
    aside = inbox / f".tmp-{name}"
    aside.write_text(text)
    if changed_at is not None:
        os.utime(aside, (changed_at, changed_at))
    aside.rename(inbox / f"{name}.jsonl")
