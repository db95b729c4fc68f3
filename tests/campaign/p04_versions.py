"""Promise 4: versions strictly increase and are never reused, without the lock and after damage too."""

import contextlib
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import oracle
from damage import MODEL, damage
from outcome import Outcome
from site_folder import make_site
from zygote import Zygote

from policies.errors import StoreError
from policies.manifest import read_manifest
from policies.store import CheckpointStore

NUMBER = 4
PROMISE = "Versions strictly increase, are never reused; a damaged version's episodes are learned again"
FULL = 200  # versions damaged; ten times as many are published by writers alone, half of them with no lock
SAMPLE = 6
PUBLISHES_A_TRIAL = 10
PUBLISHERS = ("a", "b", "c")
DEADLINE_S = 60.0
KILLED = -9


def run(*, trials, seed, progress):
    """First the numbers under several writers, then damage under the daemon."""
    with tempfile.TemporaryDirectory(prefix="learnerd-p04-") as folder:
        root = Path(folder)
        with contextlib.closing(Zygote(root / "log")) as zygote:
            found, published, kills = [], 0, 0
            for lock in (True, False):
                numbers = Numbers(zygote=zygote, folder=root / f"lock-{lock}", seed=seed, lock=lock)
                count = PUBLISHES_A_TRIAL * trials // 2
                found += [f"{'with' if lock else 'no'} lock: {text}" for text in numbers.run(count)]
                published, kills = published + len(numbers.seen), kills + numbers.kills
            rounds = Rounds(zygote=zygote, folder=root / "damage", seed=seed, log=root / "log")
            found += rounds.run(trials, progress)
    figure = (
        f"{published} numbers by three writers ({kills} SIGKILLs), half of them with no lock; "
        f"{rounds.damaged} newest versions damaged, {rounds.kills} SIGKILLs while they were learned again"
    )
    return Outcome(trials=published + trials, violations=tuple(found), figure=figure)


@dataclass(kw_only=True)
class Numbers:
    """Three processes publish as fast as they can, are killed, and the newest version is damaged."""

    zygote: Zygote
    folder: Path
    seed: int
    lock: bool
    kills: int = 0
    seen: dict[int, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def run(self, count):
        self.rng = random.Random(self.seed)
        make_site(self.folder)
        share = -(-count // len(PUBLISHERS))
        running = {name: self._start(name, share) for name in PUBLISHERS}
        until = time.monotonic() + 10 * DEADLINE_S
        while running and time.monotonic() < until:
            self._look()
            name = self.rng.choice(sorted(running))
            if (status := self.zygote.poll(running[name])) is not None:
                if status != 0:
                    self.found.append(f"a writer ended with {status}")
                del running[name]
            elif self.rng.random() < 0.02:
                self.kills += self.zygote.kill(running[name])
                running[name] = self._start(name, share)
            elif self.rng.random() < 0.005:
                self._damage_newest()
            time.sleep(0.001)
        self._look()
        return self.found + (["not done in time"] if running else []) + self._check_acknowledged()

    def _start(self, name, share):
        options = {"folder": str(self.folder), "name": name, "count": share, "lock": self.lock}
        return self.zygote.start("publisher", **options)

    def _look(self):
        """Every version that is there must be the one that was there under this number before."""
        for path in (self.folder / "state" / "checkpoints").glob("[0-9]*"):
            with contextlib.suppress(StoreError, OSError):
                save_id = read_manifest(path, int(path.name))["save_id"]
                if self.seen.setdefault(int(path.name), save_id) != save_id:
                    self.found.append(f"version {path.name} was used twice")

    def _damage_newest(self):
        paths = sorted((self.folder / "state" / "checkpoints").glob("[0-9]*"))
        with contextlib.suppress(OSError, IndexError):
            damage(paths[-1], self.rng, only=[MODEL])

    def _check_acknowledged(self):
        notes = [
            [line.split() for line in (self.folder / f"{name}.numbers").read_text().splitlines()]
            for name in PUBLISHERS
        ]
        for lines in notes:
            numbers = [int(number) for number, _ in lines]
            if numbers != sorted(set(numbers)):
                return [f"one writer's numbers do not ascend: {numbers[-5:]}"]
        acknowledged = [(int(number), save_id) for lines in notes for number, save_id in lines]
        wrong = [n for n, save_id in acknowledged if self.seen.setdefault(n, save_id) != save_id]
        twice = len(acknowledged) - len({number for number, _ in acknowledged})
        return [f"{len(wrong)} numbers were given to two saves, {twice} twice"] if wrong or twice else []


@dataclass(kw_only=True)
class Rounds:
    """The daemon learns, the newest version is damaged, and the daemon has to learn its episodes again."""

    zygote: Zygote
    folder: Path
    seed: int
    log: Path
    damaged: int = 0
    kills: int = 0
    highest: int = 1
    found: list[str] = field(default_factory=list)

    def run(self, trials, progress):
        self.rng = random.Random(self.seed)
        make_site(self.folder)
        self.store = self.folder / "state" / "checkpoints"
        self.numbers = range(0)
        self.online = range(oracle.MOST_EPISODES, oracle.MOST_EPISODES)
        for trial in range(trials):
            self._deposit()
            self._maybe_save_online()
            if self.rng.random() < 0.3:
                self._live()
            else:
                self._until_idle(may_kill=True)
                self._damage_newest()
            self._note_numbers()
            if self.found:
                break
            progress(trial + 1)
        self._until_idle(may_kill=False)
        expected = oracle.Expected(daemon=self.numbers, online=self.online)
        state, spool = self.folder / "state", self.folder / "spool"
        return [*self.found, *oracle.check(state, spool, expected)]

    def _deposit(self):
        stop = min(self.numbers.stop + self.rng.randint(1, 6), oracle.MOST_EPISODES * 3 // 4)
        new = range(self.numbers.stop, stop)
        self.numbers = range(stop)
        for number in new:
            oracle.deposit(self.folder / "spool", [number])

    def _maybe_save_online(self):
        if self.rng.random() < 0.2 and self.online.start > oracle.MOST_EPISODES * 3 // 4:
            store = CheckpointStore(self.folder / "state")
            number = self.online.start - 1
            if (head := store.head()) is not None:
                entries = [oracle.online_entry(number)]
                store.publish(oracle.delta_of([number]), base=head, writer="online", episodes=entries)
                self.online = range(number, self.online.stop)

    def _until_idle(self, *, may_kill):
        pid = self.zygote.start("daemon", folder=str(self.folder), mode="until_idle")
        if may_kill and self.rng.random() < 0.5:
            self._wait(pid, self.rng.uniform(0.1, 0.8))
            self.kills += self.zygote.kill(pid)
            return
        if (status := self._wait(pid, DEADLINE_S)) not in (0, 9):
            self.zygote.kill(pid)
            self.found.append(f"the daemon ended with {status}: {self.log.read_text()[-1500:]}")

    def _live(self):
        """Damage while the daemon runs; it notices by itself, or is killed before it does."""
        pid = self.zygote.start("daemon", folder=str(self.folder), look_every_s=0.03)
        self._wait(pid, self.rng.uniform(0.3, 0.8))
        self._damage_newest()
        self._deposit()
        self._wait(pid, self.rng.uniform(0.0, 0.5))
        self.kills += self.zygote.kill(pid)

    def _wait(self, pid, seconds):
        until = time.monotonic() + seconds
        while (status := self.zygote.poll(pid)) is None and time.monotonic() < until:
            time.sleep(0.002)
        return status

    def _damage_newest(self):
        """What an online learner published has no shard: of its versions only what can be brought back."""
        newest = max(self.store.glob("[0-9]*"))
        store = CheckpointStore(self.folder / "state")
        try:
            manifest = store.load(int(newest.name)).manifest
            store.load(manifest["parents"][0])  # the oracle's base weights cannot be made again
        except (StoreError, IndexError):
            return  # damaged already, or the last whole one
        only = None if manifest["writer"] == "daemon" and manifest["keys"] else [MODEL]
        with contextlib.suppress(OSError):
            damage(newest, self.rng, only=only)
            self.damaged += 1

    def _note_numbers(self):
        highest = max((int(path.name) for path in self.store.glob("[0-9]*")), default=0)
        if highest < self.highest:
            self.found.append(f"the highest number went back from {self.highest} to {highest}")
        self.highest = max(highest, self.highest)
