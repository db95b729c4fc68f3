"""Promise 8: steps of the wall clock by two hours neither age fresh files nor stall anything."""

import json
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from live import Live, drop, episode_text
from outcome import Outcome
from shifted_clock import Shift, build_shim

NUMBER = 8
PROMISE = "Clock steps of ±2 h neither age fresh files nor stall anything"
FULL = 60
SAMPLE = 2

STEP_S = 7200.0
MAX_AGE_S, SAMPLE_MAX_AGE_S = 20.0, 6.0
"""Fresh files are learned in well under this, also after a restart; after it, a step is forgotten."""
FORGET_EVERY = 5
"""Steps between two waits for that."""
HEARTBEAT_S = 10.0
WATCHDOG_S = 20.0
FILES = 3
RESTART_EVERY = 5

CONFIG = """
[policy]
observation_shape = [2]
action = { kind = "discrete", n = 2 }
hidden = [4]
[batch]
min_episodes = 4
max_wait_s = 0.2
[admission]
max_age_s = MAX_AGE_S
settle_s = 0.5
[schedule]
rescan_s = 1.0
[learner]
epochs = 1
minibatches = 1
[store]
keep_last = 100000
"""


class Beats:
    """A service manager's socket: when beats came, by this process's monotonic clock."""

    def __init__(self, path):
        self.address = str(path)
        self.longest_s = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._last_s = None
        self._paused = True
        threading.Thread(target=self._listen, daemon=True).start()

    def count(self, on):
        """Begin or stop counting: while the daemon is restarted it cannot beat."""
        self._last_s, self._paused = None, not on

    def _listen(self):
        while True:
            message = self._socket.recv(4096)
            now = time.monotonic()
            if b"WATCHDOG=1" in message and not self._paused:
                if self._last_s is not None:
                    self.longest_s = max(self.longest_s, now - self._last_s)
                self._last_s = now


class SlowWriter:
    """A client that cannot rename: it writes an episode in place, a step at a time, until told to end it."""

    def __init__(self, path, name, ended_at):
        *self._lines, self._end = episode_text(name, ended_at=ended_at).splitlines(keepends=True)
        self._file = path.open("w", buffering=1)
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self):
        self._file.writelines(self._lines)
        while not self._enough.wait(0.05):
            self._file.write(self._lines[-1])
        self._file.write(self._end)
        self._file.close()

    def finish(self):
        self._enough.set()
        self._thread.join()


def run(*, trials, seed, progress):
    """Step the clock of a real daemon ``trials`` times, with files before, during and after each step."""
    folder = Path(tempfile.mkdtemp(prefix="p08-"))
    try:
        library = build_shim(folder)
        if library is None:
            return Outcome(
                trials=0, violations=(), figure="not run", skipped="no C compiler for the clock shim"
            )
        shift, beats = Shift(folder), Beats(folder / "notify")
        environment = {
            "LD_PRELOAD": str(library),
            "CLOCK_OFFSET": str(shift.path),
            "NOTIFY_SOCKET": beats.address,
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }
        max_age_s = MAX_AGE_S if trials > SAMPLE else SAMPLE_MAX_AGE_S
        config = CONFIG.replace("MAX_AGE_S", f"{max_age_s:.1f}")
        with Live(folder / "daemon", config=config, environment=environment) as live:
            live.start()
            campaign = _Campaign(live, shift, beats, random.Random(seed), max_age_s)
            campaign.all_steps(trials, progress)
            violations = campaign.judge()
        figure = (
            f"{trials} steps, {campaign.restarts} restarts, {len(campaign.expected)} files, "
            f"{len(campaign.wrong)} wrong verdicts; slowest fresh file learned after "
            f"{campaign.slowest_s:.1f} s, longest time between beats {beats.longest_s:.1f} s"
        )
        return Outcome(trials=trials, violations=tuple(violations), figure=figure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Campaign:
    def __init__(self, live, shift, beats, rng, max_age_s):
        self.live, self.shift, self.beats, self.rng = live, shift, beats, rng
        self.max_age_s = max_age_s
        self.expected = {}
        self.wrong = []
        self.broken = []
        self.slowest_s = 0.0
        self.restarts = 0

    def all_steps(self, trials, progress):
        self._check_narrow("start")
        self.beats.count(on=True)
        for number in range(trials):
            self._one_step(number, forget=number % FORGET_EVERY == FORGET_EVERY - 1 or number == trials - 1)
            progress(number + 1)

    def _one_step(self, number, *, forget):
        sign = 1 if number % 2 == 0 else -1
        if number % 6 >= 4:  # two steps the same way, now and then
            sign = -sign
        tag = f"{number:04d}"
        fresh = [self._fresh(f"{tag}-before-{i}", by_mtime=i == 0) for i in range(FILES)]
        waiting = self._prepared(f"{tag}-during")
        slow = SlowWriter(self.live.inbox / f"{tag}-slow.jsonl", f"{tag}-slow", self.shift.now())
        time.sleep(self.rng.uniform(0.0, 0.3))
        self.shift.step(sign * STEP_S)
        stepped_s = noticed_s = time.monotonic()
        if number % RESTART_EVERY == RESTART_EVERY - 1:
            self._restart(number)
            noticed_s = time.monotonic()  # at the latest
        waiting()
        fresh += [f"{tag}-during", *(self._fresh(f"{tag}-after-{i}", by_mtime=i == 0) for i in range(FILES))]
        self._check_status(tag)
        slow.finish()
        self._expect(f"{tag}-slow", "learned")
        self._wait_for([*fresh, f"{tag}-slow"], stepped_s)
        self._bounds_widened(tag)
        if forget:
            time.sleep(max(0.0, noticed_s + self.max_age_s + 0.5 - time.monotonic()))
            self._check_narrow(tag)

    def _restart(self, number):
        """Stop or kill it with the step just made, and start it again."""
        self.restarts += 1
        self.beats.count(on=False)
        self.live.stop(how=signal.SIGKILL if number % (2 * RESTART_EVERY) else signal.SIGTERM)
        self.live.start()
        self.beats.count(on=True)

    def _fresh(self, name, *, by_mtime=False):
        now = self.shift.now()
        drop(self.live.inbox, name, episode_text(name, ended_at=None if by_mtime else now), changed_at=now)
        self._expect(name, "learned")
        return name

    def _prepared(self, name):
        """Written before the step, renamed into place after it."""
        now = self.shift.now()
        aside = self.live.inbox / f".tmp-{name}"
        aside.write_text(episode_text(name, ended_at=now))
        self._expect(name, "learned")
        return lambda: aside.rename(self.live.inbox / f"{name}.jsonl")

    def _bounds_widened(self, tag):
        """Just after a step both bounds are wider by it, and no wider."""
        now = self.shift.now()
        for name, ended_at, verdict in (
            ("very-old", now - 50 * STEP_S, "too_old"),
            ("far-ahead", now + 50 * STEP_S, "future"),
        ):
            self._judged(f"{tag}-{name}", ended_at, verdict)

    def _check_narrow(self, tag):
        """Long after the last step old files are refused again, and fresh ones are not."""
        now = self.shift.now()
        self._judged(f"{tag}-old", now - 600.0, "too_old")
        self._judged(f"{tag}-ahead", now + 3600.0, "future")
        self._wait_for([self._fresh(f"{tag}-fresh")], time.monotonic())

    def _judged(self, name, ended_at, verdict):
        drop(self.live.inbox, name, episode_text(name, ended_at=ended_at))
        self._expect(name, verdict)

    def _expect(self, name, verdict):
        self.expected[name] = verdict

    def _wait_for(self, names, since_s):
        try:
            self.live.wait(lambda: not self._pending(names), what="fresh files", timeout_s=2 * HEARTBEAT_S)
        except TimeoutError:
            self.broken.append(f"stalled above two heartbeats: {self._pending(names)}")
        self.slowest_s = max(self.slowest_s, time.monotonic() - since_s)

    def _pending(self, names):
        verdicts = self._verdicts()
        return [name for name in names if name not in verdicts]

    def _verdicts(self):
        found = dict.fromkeys(self.live.learned(), "learned")
        path = self.live.state / "outcomes.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            record = json.loads(line)
            found[record["name"].removesuffix(".jsonl")] = record["reason"]
        return found

    def _check_status(self, tag):
        command = ["status", "--json"]
        process = self.live.launch(*command)
        code = process.wait(timeout=60)
        if code != 0:
            self.broken.append(f"status exits with {code} after step {tag}: {self.live.log()[-500:]}")

    def judge(self):
        """Every violation, once the daemon has ended."""
        self.live.stop()
        verdicts = self._verdicts()
        self.wrong = [
            f"{name}: {verdicts.get(name, 'no verdict')}, not {verdict}"
            for name, verdict in self.expected.items()
            if verdicts.get(name) != verdict
        ]
        twice = [name for name, count in Counter(self.live.learned()).items() if count > 1]
        if self.beats.longest_s > 2 * HEARTBEAT_S:
            self.broken.append(f"{self.beats.longest_s:.1f} s without a beat")
        return [*self.wrong, *(f"{name} learned twice" for name in twice), *self.broken]
