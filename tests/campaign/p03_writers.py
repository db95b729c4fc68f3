"""Promise 3: two writers, daemon and online learner, in processes of their own, lose nothing."""

import contextlib
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import oracle
from outcome import Outcome
from site_folder import make_site
from zygote import Zygote

from policies.errors import StoreError
from policies.manifest import read_manifest, version_folder

NUMBER = 3
PROMISE = "Two writers (daemon and online learner, separate processes) lose nothing"
FULL = 6_000  # episodes: half of them as it comes, half with the merge path forced in every round
SAMPLE = 48
EPISODES_A_KILL = 6
LIFE_S = {"daemon": (0.05, 0.9), "online": (0.01, 0.25)}
DEADLINE_S = 600.0


def run(*, trials, seed, progress):
    """Half of the episodes with merges as they come, half with a merge in every round."""
    half = trials // 2
    with tempfile.TemporaryDirectory(prefix="learnerd-p03-") as folder:
        log = Path(folder, "log")
        with contextlib.closing(Zygote(log)) as zygote:
            campaigns = [
                Campaign(
                    zygote=zygote, folder=Path(folder, name), log=log, episodes=half, seed=seed, forced=forced
                )
                for name, forced in (("plain", False), ("forced", True))
            ]
            found = [
                f"{campaign.folder.name}: {text}"
                for i, campaign in enumerate(campaigns)
                for text in campaign.run(lambda done, i=i: progress(i * half + done))
            ]
    kills, merged = sum(campaign.kills for campaign in campaigns), campaigns[1].merged_fraction()
    figure = f"2 x {half} episodes, {kills} SIGKILLs, {len(found)} wrong; {merged:.1%} merged when forced"
    return Outcome(trials=2 * half, violations=tuple(found), figure=figure)


@dataclass(kw_only=True)
class Writer:
    """One of the two processes, and when it is to be killed."""

    role: str
    pid: int | None = None
    kill_at_s: float = 0.0
    on_publish: bool = False
    kills: int = 0
    lives: int = 0


@dataclass(kw_only=True)
class Campaign:
    """One run over one folder."""

    zygote: Zygote
    folder: Path
    log: Path
    episodes: int
    seed: int
    forced: bool
    kills: int = 0
    merges: dict[int, bool] = field(default_factory=dict)
    noted: int = 1
    ended: list[str] = field(default_factory=list)

    def run(self, progress):
        self.rng = random.Random(self.seed)
        split = self.episodes * 2 // 3
        self.expected = oracle.Expected(daemon=range(split), online=range(split, self.episodes))
        make_site(self.folder)
        self.deposited = 0
        self._kill_and_restart(progress)
        state, spool = self.folder / "state", self.folder / "spool"
        return [*self.ended[:1], *(self._finish() or oracle.check(state, spool, self.expected))]

    def merged_fraction(self):
        """How many of the versions that hold episodes were merges; the very first one cannot be."""
        return sum(self.merges.values()) / max(1, len(self.merges))

    def _kill_and_restart(self, progress):
        target = max(2, self.episodes // EPISODES_A_KILL)
        writers = [Writer(role="daemon"), Writer(role="online")]
        self.share = -(-len(self.expected.daemon) // max(1, target // 2))
        while self.kills < target and not self.ended:
            self._note_versions()
            for writer in writers:
                if writer.pid is None:
                    self._start(writer)
                elif self._is_due(writer):
                    self._kill(writer)
            progress(self.episodes * self.kills // target)
            time.sleep(0.001)
        for writer in writers:
            if writer.pid is not None:
                self.zygote.kill(writer.pid)

    def _start(self, writer):
        if writer.role == "daemon":
            self._deposit(self.share)
        writer.pid = self.zygote.start(writer.role, **self._options(writer))
        writer.lives += 1
        writer.on_publish = self.rng.random() < 0.5
        writer.kill_at_s = time.monotonic() + self.rng.uniform(*LIFE_S[writer.role])
        self._mark = self._newest()

    def _options(self, writer):
        common = {"folder": str(self.folder), "forced": self.forced}
        if writer.role == "daemon":
            return common
        online = self.expected.online
        quota = 1 + 3 * len(online) // max(1, self.episodes // EPISODES_A_KILL)
        seed = self.rng.randrange(1 << 30)
        return {**common, "first": online.start, "last": online.stop, "quota": quota, "seed": seed}

    def _is_due(self, writer):
        """At its time; or right after a scratch folder or a version has appeared."""
        if writer.on_publish and self._newest() != self._mark:
            writer.on_publish = False
            writer.kill_at_s = min(writer.kill_at_s, time.monotonic() + self.rng.expovariate(300.0))
        return time.monotonic() >= writer.kill_at_s

    def _kill(self, writer):
        killed = self.zygote.kill(writer.pid)
        self.kills += killed
        if not killed and not self._may_end(writer):
            self.ended.append(f"the {writer.role} ended by itself: {self._log()}")
        writer.pid = None

    def _may_end(self, writer):
        """An online learner that has nothing more to do."""
        return writer.role == "online" and self.zygote.wait(writer.pid) == 0

    def _log(self):
        return self.log.read_text()[-1000:]

    def _newest(self):
        return (self.folder / "state" / "checkpoints").stat().st_mtime_ns

    def _deposit(self, count):
        numbers = [*self.expected.daemon[self.deposited : self.deposited + count]]
        self.deposited += len(numbers)
        while numbers:
            group = numbers[: self.rng.randint(1, 3)]
            oracle.deposit(self.folder / "spool", group)
            numbers = numbers[len(group) :]

    def _finish(self):
        """Let both live until all is learned; what went wrong."""
        self._deposit(self.episodes)
        online = self._options(Writer(role="online")) | {"quota": self.episodes}
        helper = self.zygote.start("online", **online)
        daemon = self.zygote.start("daemon", folder=str(self.folder), forced=self.forced, mode="until_idle")
        until = time.monotonic() + DEADLINE_S
        while (status := self.zygote.poll(daemon)) is None and time.monotonic() < until:
            self._note_versions()
            time.sleep(0.001)
        if status is None:
            self.zygote.kill(daemon)
            return [f"the daemon was not done after {DEADLINE_S:.0f} s"]
        online_status = self._finish_online(helper)
        if status not in (0, 9) or online_status not in (0, -9):
            return [f"daemon ended with {status}, online learner with {online_status}: {self._log()}"]
        return []

    def _finish_online(self, helper):
        """In forced rounds it stands by for ever, so that it has to be told when all is learned."""
        keys = [oracle.online_key(number) for number in self.expected.online]
        store = oracle.CheckpointStore(self.folder / "state")
        until = time.monotonic() + DEADLINE_S
        while self.forced and len(store.lookup(keys)) < len(keys) and time.monotonic() < until:
            time.sleep(0.01)
        if self.forced:
            self.zygote.kill(helper)
        return self.zygote.wait(helper)

    def _note_versions(self):
        """Whether each version that holds episodes was a merge; manifests go with retention."""
        while True:
            following = self.noted + 1
            try:
                manifest = read_manifest(version_folder(self.folder / "state", following), following)
            except (OSError, StoreError):
                return
            if manifest["keys"]:
                self.merges[following] = manifest["merge"]["rebased"]
            self.noted = following
