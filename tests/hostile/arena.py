"""A real daemon process over a real spool, watched from outside."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from hostile_case import arrays, header, npz

ROOT = Path(__file__).parents[2]
CONFIG = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
[batch]
max_wait_s = 0.2
[admission]
settle_s = 0.1
"""


class Arena:
    """A folder with a daemon in it.

    Args:
        folder: made when missing.
        environment: added to the daemon's.
        plain_user: without the right to read whatever it likes, also as root.
    """

    def __init__(
        self, folder: Path, *, environment=None, plain_user: bool = False, config: str = CONFIG
    ) -> None:
        self.folder = folder
        self.inbox = folder / "spool" / "in"
        self.inbox.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(config)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        self._prepare = _give_up_reading_all if plain_user else None
        self.peaks: Counter = Counter()

    def good(self, name: str, **changes) -> str:
        """Deposit a good neighbor; return its file name."""
        aside = self.inbox / f".tmp-{name}"
        aside.write_bytes(npz(header(name, time.time(), client_id="neighbor", **changes), **arrays()))
        aside.rename(self.inbox / f"{name}.npz")
        return f"{name}.npz"

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start ``learnerd run``; its log goes to daemon.log."""
        command = [
            sys.executable,
            "-m",
            "learnerd",
            "run",
            *arguments,
            "--config",
            str(self.folder / "config.toml"),
        ]
        with (self.folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                preexec_fn=self._prepare,  # noqa: PLW1509 - it takes no lock
            )
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return process

    def until_idle(self, *, timeout_s: float = 600.0) -> int:
        """Run until nothing is left to do; return the exit status, -9 when it took too long."""
        process = self.start("--until-idle")
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -signal.SIGKILL

    def _watch(self, process: subprocess.Popen) -> None:
        """Note the most memory that the daemon and its children have had, in bytes."""
        while process.poll() is None:
            for kind, pid in [
                ("daemon", process.pid),
                *(("decoder", pid) for pid in _children(process.pid) if _is_decoder(pid)),
            ]:
                for line in ("VmPeak", "VmHWM"):
                    key = f"{kind} {line}"
                    self.peaks[key] = max(self.peaks[key], _memory(pid, line))
            time.sleep(0.05)

    def records(self) -> list[dict]:
        """Lines of the outcomes file."""
        path = self.folder / "state" / "outcomes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def ledger(self) -> list[dict]:
        """Rows of every version's ledger."""
        paths = sorted((self.folder / "state" / "checkpoints").glob("[0-9]*/ledger.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()]

    def learned(self) -> Counter:
        """File name -> how many of its episodes are in the ledger."""
        return Counter(row["source_name"] for row in self.ledger())

    def left(self) -> list[str]:
        """Names that still wait or are claimed."""
        spool = self.folder / "spool"
        return [path.name for part in ("in", "claimed/daemon") for path in (spool / part).glob("[!.]*")]

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def finite(self) -> bool:
        """Whether the newest version holds only finite numbers, and statistics of a sane scale."""
        from safetensors.numpy import load_file  # noqa: PLC0415 - the rest needs it not

        current = (self.folder / "state" / "CURRENT").read_text().strip()
        model = load_file(self.folder / "state" / "checkpoints" / current / "model.safetensors")
        return all(abs(array).max(initial=0.0) < 1e15 for array in model.values())


def _children(pid: int) -> list[int]:
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for text in texts for child in text.split()]


def _is_decoder(pid: int) -> bool:
    """Whether a child has become the decoder: between fork and exec it still has its parent's memory."""
    try:
        return b"decode_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _memory(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _give_up_reading_all() -> None:
    """Drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what programs started from here may have."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; it fails for who never had them


def killer_environment(folder: Path) -> dict[str, str]:
    """With this environment, files named ``kill-<how>…`` end the decoder; folder/deaths lists each time."""
    killers = Path(__file__).parent / "killers"
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{killers}", "HOSTILE_DEATHS": str(folder / "deaths")}


def complain_of_neighbors(arena: Arena, neighbors: list[str]) -> list[str]:
    """Name the good files that were not learned exactly once."""
    learned = arena.learned()
    return [f"neighbor {name} was learned {learned[name]} times" for name in neighbors if learned[name] != 1]
