"""One run: what is done to the daemon and its clients, moment by moment, and how it ends."""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from account import Account, log_violations
from gauges import Gauges, Versions
from ground import Ground
from plan import END, Event, plan

from policies.runs import MOST_RUNS

ROOT = Path(__file__).resolve().parents[2]
SLOPE_MIB_PER_HOUR = 40.0
"""Of the memory of its own; judged when the daemon lived for ``JUDGED_S``, as caches fill up before."""
JUDGED_S = 600.0
GROWTH_MIB = 64.0
"""Of a shorter life."""
MORE_FDS = 4 + 2 * MOST_RUNS
"""Two stores map the files of the ledger, of which there are ever more up to a bound."""
IDLE_S = 600.0
READY_S = 300.0
CONSULT_S = 60.0
"""For alarms that end with the next thing that works."""
MOST_WAITING = 8000
"""Files in the inbox beyond which no further burst is added: files that wait for an hour are too old."""
DAY_S = 86_400.0
PROGRESS_S = 30.0
OF_THE_GROUND = ("spool file system", "state file system", "free space")


class Soak:
    """One run.

    Args:
        ground: where.
        seed, minutes: what, and how long.
    """

    def __init__(self, ground: Ground, *, seed: int, minutes: float) -> None:
        self._ground, self._live = ground, ground.live
        self._rng = random.Random(seed)
        self._seconds, self._minutes = 60.0 * minutes, minutes
        self._events = collections.deque(plan(seed, minutes))
        self._later: list[tuple[float, object]] = []
        self._clients: list[subprocess.Popen] = []
        self._online = self._killed_online = None
        self._gauges, self._versions = Gauges(), Versions(ground.live.state)
        self._ending = False  # somebody asked the daemon to end
        self._was_ready = False
        self.done = collections.Counter()
        self.alarms = collections.Counter()
        self.violations: list[str] = []
        self.figures: dict = {}

    def close(self) -> None:
        """End every client; also after an error."""
        for process in [*self._clients, self._online]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def run(self) -> None:
        """Everything, from the start to the account."""
        self._launch()
        if not self._until(self._is_running, READY_S):
            raise TimeoutError(f"the daemon was not ready after {READY_S:.0f} s: {self._live.log()}")
        # Only now: a clock that is set before the very first start leaves no trace that could be noticed.
        begun_s = self._begun_s = time.monotonic()
        self._start_clients()
        told_s = begun_s
        while (now := time.monotonic()) < begun_s + END * self._seconds:
            self._step(now - begun_s)
            if now - told_s > PROGRESS_S:
                told_s = now
                print(
                    f"{(now - begun_s) / 60:.1f} min: version {self._versions.newest}, {dict(self.done)}",
                    flush=True,
                )
            time.sleep(0.05)
        self._finish()
        self._account()

    def _step(self, elapsed_s: float) -> None:
        while self._events and self._events[0].at_s <= elapsed_s:
            event = self._events.popleft()
            getattr(self, f"_do_{event.kind}")(event)
        due = [entry for entry in self._later if entry[0] <= elapsed_s]
        self._later = [entry for entry in self._later if entry[0] > elapsed_s]
        for _, action in due:
            action()
        self._watch()

    def _watch(self) -> None:
        """Keep daemon and clients running, and look at what they do."""
        code = self._live.process.poll()
        if code is not None:
            if not self._ending:
                self.violations.append(f"the daemon ended by itself with {code}: {self._live.log()[-600:]}")
            elif code not in (0, -signal.SIGKILL, 5 if self._disk_was_full() else 0):
                self.violations.append(f"the daemon was asked to end, and ended with {code}")
            self._launch()
        self._versions.look()
        if self._is_running():
            self._was_ready = True
            self._gauges.sample(self._live.process.pid)
        for alarm in self._live.status().get("alarms", []) if self._is_running() else []:
            self.alarms[alarm["id"]] = self.alarms[alarm["id"]] + 1
        for client in [client for client in self._clients if client.poll() is not None]:
            self._clients.remove(client)
            if client.returncode:
                self.violations.append(f"a client ended with {client.returncode}: {client.args[2:4]}")
        if self._online.poll() is not None and self._online is not self._killed_online:
            self.violations.append(f"the online learner ended with {self._online.returncode}")
            self._start_online()

    def _is_running(self) -> bool:
        daemon = self._live.status().get("daemon", {})
        return daemon.get("pid") == self._live.process.pid and daemon.get("state") == "running"

    def _disk_was_full(self) -> bool:
        return self.done["fill"] > 0

    def _after(self, seconds: float, action) -> None:
        self._later.append((time.monotonic() - self._begun_s + seconds, action))

    def _launch(self) -> None:
        self._live.process = self._live.launch("run")
        self._ending = self._was_ready = False

    def _start_clients(self) -> None:
        start, hour = self._ground.client, self._minutes >= 10
        seeds = iter(range(self._rng.randrange(1 << 20) * 100, 1 << 40))
        for number in range(2):
            self._clients.append(start("library", seed=next(seeds), name=f"library-{number}", period_s=0.2))
        self._clients.append(start("by_contract", seed=next(seeds), name="contract", period_s=0.15))
        heavy = {"heavy": True} if hour else {}
        self._clients.append(
            start("hostile", seed=next(seeds), name="hostile", period_s=0.5 if hour else 0.1, **heavy)
        )
        self._start_online()

    def _start_online(self) -> None:
        self._online = self._ground.online(seed=self._rng.randrange(1 << 30), period_s=0.5)

    def _do_kill(self, _: Event) -> None:
        self._ending = True
        self._live.process.kill()
        self._live.process.wait()
        self.done["kill, ready" if self._was_ready else "kill, starting"] += 1
        self._launch()

    def _do_kill_online(self, _: Event) -> None:
        self._killed_online = self._online
        self._online.kill()
        self._online.wait()
        self.done["kill_online"] += 1
        self._start_online()

    def _do_stop(self, event: Event) -> None:
        self._when_running(event, signal.SIGTERM)

    def _do_reload(self, event: Event) -> None:
        """With another value each time, so that another loop begins."""
        values = ("max_wait_s = 0.5\n", "max_wait_s = 0.4\n")
        path = self._live.folder / "config.toml"
        text = path.read_text()
        path.write_text(text.replace(*(values if values[0] in text else reversed(values))))
        self._when_running(event, signal.SIGHUP)

    def _when_running(self, event: Event, number: int) -> None:
        """Signals to a process that has not installed its handlers would be kills."""
        if self._ending or not self._was_ready:
            self._after(1.0, lambda: getattr(self, f"_do_{event.kind}")(event))
            return
        self._ending = number == signal.SIGTERM
        self._live.process.send_signal(number)
        self.done[event.kind] += 1

    def _do_freeze(self, event: Event) -> None:
        process = self._live.process
        process.send_signal(signal.SIGSTOP)
        self._after(event.value, lambda: process.poll() is None and process.send_signal(signal.SIGCONT))
        self.done["freeze"] += 1

    def _do_pause(self, event: Event) -> None:
        if not (ROOT / "learnerd" / "cli" / "pause.py").exists():
            return
        self._learnerd("pause")
        self._after(event.value, lambda: self._learnerd("resume"))
        self.done["pause"] += 1

    def _do_burst(self, event: Event) -> None:
        if sum(1 for _ in os.scandir(self._live.inbox)) > MOST_WAITING:  # a machine that others keep busy
            self._after(10.0, lambda: self._do_burst(event))
            return
        name = f"burst-{self.done['burst']}"
        seed = self._rng.randrange(1 << 30)
        self._clients.append(self._ground.client("burst", seed=seed, name=name, files=int(event.value)))
        self.done["burst"] += 1

    def _do_step(self, event: Event) -> None:
        if self._ground.shift is not None:
            self._ground.shift.step(event.value - self._ground.shift.seconds)
            self.done["step"] += 1

    def _do_fill(self, event: Event) -> None:
        if self._ground.disk is not None:
            self._ground.disk.fill(inodes=event.inodes, leave=event.leave)
            self._after(event.value, self._ground.disk.empty)
            self.done["fill"] += 1

    def _finish(self) -> None:
        """Undo what lasts, let clients end, let the daemon work off what is left, ask the doctor, stop it."""
        for _, action in self._later:
            action()
        self._later.clear()
        if self._ground.disk is not None:
            self._ground.disk.empty()
        self._end_clients()
        if not self._until(self._idle, IDLE_S):
            left = [path.name for part in ("in", "claimed") for path in self._live.files(part)]
            self.violations.append(f"not idle after {IDLE_S:.0f} s: {len(left)} files, such as {left[:5]}")
        self._consult()
        self._versions.look()
        self.figures["memory"] = self._gauges.figures()
        self._ending = True
        if code := self._live.stop():
            self.violations.append(f"the daemon ended with {code}: {self._live.log()[-600:]}")
        self._sweep()
        self._versions.look()

    def _end_clients(self) -> None:
        for client in [*self._clients, self._online]:
            client.terminate()  # each ends once what it has in hand is deposited
        for client in [*self._clients, self._online]:
            if code := client.wait(timeout=300):
                self.violations.append(f"a client ended with {code}: {client.args[2:4]}")

    def _until(self, condition, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until or self._live.process.poll() is not None:
                return False
            if self._is_running():
                self._gauges.sample(self._live.process.pid)
            self._versions.look()
            time.sleep(0.5)
        return True

    def _idle(self) -> bool:
        claims = self._live.spool / "claimed" / "daemon"
        return self._is_running() and not any(map(_holds_something, (self._live.inbox, claims)))

    def _consult(self) -> None:
        """``doctor`` finds nothing wrong with a daemon that runs and has recovered."""
        until = time.monotonic() + CONSULT_S
        while (findings := self._doctor()) and time.monotonic() < until:
            time.sleep(1.0)
        self.violations += [f"doctor: {finding}" for finding in findings]

    def _doctor(self) -> list[str]:
        """Ask it; what it says about the small disk on which this ground lies is true, and no fault."""
        done = self._learnerd("doctor", "--json")
        if done.returncode not in (0, 1, 4):
            return [f"exit {done.returncode}: {done.stderr[-300:]}"]
        found = json.loads(done.stdout)["findings"]
        bad = [one for one in found if one["severity"] in ("warning", "failure")]
        return [str(one) for one in bad if one["check"] not in OF_THE_GROUND]

    def _learnerd(self, *arguments: str) -> subprocess.CompletedProcess:
        config = str(self._live.folder / "config.toml")
        return subprocess.run(
            [sys.executable, "-m", "learnerd", *arguments, "--config", config],
            env=self._live.environment(),
            cwd=self._live.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def _sweep(self) -> None:
        """A day later, a run that ends when nothing is left: it sweeps what kills left aside."""
        if self._ground.shift is not None:
            self._ground.shift.step(DAY_S + 3600.0 - self._ground.shift.seconds)
        code = self._live.launch("run", "--until-idle").wait(timeout=300)
        if code not in (0, 9):
            self.violations.append(f"run --until-idle ended with {code}: {self._live.log()[-600:]}")

    def _account(self) -> None:
        added = self._versions.added()
        by_daemon = self._versions.keys.get("daemon", collections.Counter())
        account = Account(
            self._live.spool,
            self._live.state,
            self._ground.journal,
            status=json.loads(self._learnerd("status", "--json").stdout),
            added=added,
            by_daemon=by_daemon,
        )
        self.figures["account"] = account.figures()
        self.violations += [*account.violations(), *self._versions.wrong, *self._memory()]
        self.violations += log_violations(self._live.folder / "daemon.log")

    def _memory(self) -> list[str]:
        found = self.figures["memory"]
        if not found["seconds"]:
            return ["the daemon never lived long enough for its memory to be looked at"]
        wrong = []
        if found["seconds"] >= JUDGED_S and found["slope_mib_per_hour"] > SLOPE_MIB_PER_HOUR:
            wrong.append(f"memory grows: {found}")
        if found["seconds"] < JUDGED_S and found["last_mib"] - found["first_mib"] > GROWTH_MIB:
            wrong.append(f"memory grows: {found}")
        if found["fds_last"] - found["fds_first"] > MORE_FDS:
            wrong.append(f"file descriptors grow: {found}")
        return wrong


def _holds_something(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(not entry.name.startswith(".") for entry in entries)
