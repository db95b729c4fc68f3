"""The ground of the soak: a small disk with spool and state on it, a clock that can be stepped, a config."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from live import Live
from shifted_clock import Shift, build_shim
from small_disk import Disk

FOLDER = Path(__file__).resolve().parent
DISK = "size=2g,nr_inodes=200k"
KILLERS = FOLDER.parent / "hostile" / "killers"

CONFIG = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
hidden = [16]
normalize = false
[batch]
max_wait_s = 0.5
max_chunks = 16
[admission]
max_age_s = 3600.0
max_staleness = 2000
settle_s = 0.5
[stability]
entropy_collapse = "off"
[store]
keep_last = 200
keep_minutes = 1
[quarantine]
keep_bytes = 200000000
[schedule]
rescan_s = 2.0
compact = "*/2 * * * *"
"""
"""Retention and maintenance run all the time; ages and staleness leave room for whatever is done. The task is
solved within minutes, so that a policy which tries nothing new any more is right."""


class Ground:
    """Folders, clock and processes of one run.

    Args:
        folder: for journals, log, config and the clock; never full.

    Attributes:
        disk: under spool and state; None where none can be mounted.
        shift: of the wall clock of daemon and clients; None without a C compiler.
        missing: what cannot be had on this machine, and so is not tried.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.mkdir(parents=True)
        self.missing: list[str] = []
        self.disk, site = self._mount(folder / "disk")
        self.shift, environment = self._clock()
        environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parents[1]), str(KILLERS)])
        environment["HOSTILE_DEATHS"] = str(folder / "deaths")
        self.live = Live(
            folder, spool=site / "spool", state=site / "state", config=CONFIG, environment=environment
        )
        self.live.inbox.mkdir(parents=True)

    def _mount(self, site):
        try:
            return Disk(site, DISK), site
        except (OSError, subprocess.CalledProcessError):
            self.missing.append("a full disk: no tmpfs can be mounted here, not even in a user namespace")
            site.mkdir(parents=True, exist_ok=True)
            return None, site

    def _clock(self):
        library = build_shim(self.folder)
        if library is None:
            self.missing.append("steps of the clock: no C compiler for the shim")
            return None, {}
        shift = Shift(self.folder)
        return shift, shift.environment(library)

    def client(self, kind, *, seed, name, **options):
        """Start a client's process."""
        command = [sys.executable, FOLDER / "clients.py", kind, "--name", name, "--seed", str(seed)]
        folders = {"spool": self.live.spool, "state": self.live.state, "journal": self.journal}
        for key, value in {**folders, **options}.items():
            command += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return self._start(command)

    def online(self, *, seed, period_s):
        """Start the online learner."""
        command = [sys.executable, FOLDER / "online.py", self.live.state, self.journal]
        return self._start([*command, str(seed), str(period_s)])

    def _start(self, command):
        with (self.folder / "clients.log").open("ab") as log:
            return subprocess.Popen(
                [str(part) for part in command],
                env=self.live.environment(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def close(self):
        """End the daemon, and give the disk back."""
        self.live.close()
        if self.disk is not None:
            self.disk.close()
            with contextlib.suppress(OSError):
                shutil.rmtree(self.disk.folder)


def with_a_namespace() -> None:
    """Run this program again where it may mount, when it may not here but a user namespace allows it."""
    if os.geteuid() == 0 or "SOAK_NAMESPACE" in os.environ or shutil.which("unshare") is None:
        return
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
        os.environ["SOAK_NAMESPACE"] = "1"
        os.execvp(prefix[0], [*prefix, sys.executable, *sys.argv])
