"""Runs one part of the daemon many times in this process and prints "<done> <bytes of its own memory>"."""

import re
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from experience.admission import Rules
from experience.decoder import DecodeJob, Decoder
from experience.episode import Episode
from experience.ids import uuid7
from experience.outcomes import Outcomes
from experience.spool import Spool
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.config import Config
from learnerd.cycle import Cycle
from learnerd.maintenance import PRUNE_EVERY, prune_store
from learnerd.trainer import trim_memory
from policies.store import CheckpointStore

WIDTH = 4
MAX_EPISODES, LEAST_STEPS, MOST_STEPS = 64, 5, 500
KEEP_ARCHIVE_BYTES = 64 * 2**20
KEEP_VERSIONS = 20
REFUSED_EVERY = 16


def own_bytes(pid="self"):
    """Resident memory of a process's own; mapped files are the system's cache: it takes them back."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)[1])


def report(done, pid="self"):
    print(done, own_bytes(pid), flush=True)


class Rig:
    """The daemon's training side over a folder: admission, cycle, store, archive and retention."""

    def __init__(self, folder, seed, *, reuse=1.0):
        self.config = Config.model_validate(
            {
                "paths": {"spool": str(folder / "spool"), "state": str(folder / "state")},
                "policy": {
                    "observation_shape": [WIDTH],
                    "action": {"kind": "discrete", "n": 2},
                    "hidden": [16],
                },
                "learner": {"epochs": 1, "minibatches": 1},
                "batch": {"chunk_episodes": MAX_EPISODES, "reuse": reuse},
                "admission": {"max_staleness": KEEP_VERSIONS},
                "store": {"keep_last": KEEP_VERSIONS, "keep_every": 0, "keep_minutes": 0.0},
            },
            context={"folder": folder},
        )
        self.clock = Clock(remember_s=3600.0)
        self.spool = Spool(self.config.paths.spool)
        self.spool.make_folders()
        self.store = CheckpointStore(self.config.paths.state)
        admission = self.config.admission
        self.admission = Admission(
            store=CheckpointStore(self.config.paths.state),
            spool=self.spool,
            outcomes=Outcomes(self.config.paths.state / "outcomes.jsonl"),
            rules=Rules(max_age_s=admission.max_age_s, max_staleness=admission.max_staleness),
            clock=self.clock,
        )
        self.cycle = Cycle(
            self.config,
            store=self.store,
            spool=self.spool,
            admission=self.admission,
            device="cpu",
            clock=self.clock,
        )
        self.cycle.begin()
        self._rng = np.random.default_rng(seed)
        self._version = 1

    def one_batch(self, number):
        """Claim, judge, learn, publish, archive; every sixteenth time prune, as the daemon does."""
        arrivals = [self._arrival(number, "a")]
        if number % REFUSED_EVERY == 0:
            arrivals.append(self._arrival(number, "old", ended_at=0.0))
        kept = [arrival for arrival in map(self.admission.sort, arrivals) if arrival.episodes]
        report = self.cycle.run(kept)
        trim_memory()
        self._version = report.published.version
        if self._version % PRUNE_EVERY == 0:
            prune_store(self.store, self.config, self.clock)
            now = self.clock.wall()
            self.spool.archive_prune(keep_days=30.0, keep_bytes=KEEP_ARCHIVE_BYTES, now=now)
            self.spool.refused_prune(keep_days=30.0, keep_bytes=KEEP_ARCHIVE_BYTES, now=now)
        self.spool.sizes()

    def _arrival(self, number, tag, ended_at=None):
        name = f"{number:06d}-{tag}.npz"
        (self.config.paths.spool / "in" / name).write_bytes(b"decoded already")
        claim = self.spool.claim(name)
        now = self.clock.wall()
        count = int(np.exp(self._rng.uniform(0.0, np.log(MAX_EPISODES + 1))))
        ended_at = now if ended_at is None else ended_at
        return Arrival(
            claim=claim,
            episodes=tuple(self._episode(f"{name}-{i}", ended_at) for i in range(count)),
            claimed_at=now,
            seen_s=self.clock.aging(),
            mtime_s=now,
        )

    def _episode(self, name, ended_at):
        low, high = np.log(LEAST_STEPS), np.log(MOST_STEPS + 1)
        steps = int(np.exp(self._rng.uniform(low, high)))
        return Episode(
            episode_id=name,
            client_id="bot",
            obs=self._rng.normal(size=(steps + 1, WIDTH)).astype(np.float32),
            action=self._rng.integers(2, size=steps),
            reward=self._rng.normal(size=steps),
            logp=np.full(steps, -np.log(2.0)),
            policy_version=self._version,
            terminated=True,
            truncated=False,
            ended_at=ended_at,
        )


def train(folder, count, every, seed, *, reuse=1.0):
    rig = Rig(folder, seed, reuse=reuse)
    for number in range(count):
        rig.one_batch(number)
        if number % every == 0:
            report(number)


def decode(folder, count, every, seed):
    """The same few hundred files again and again, through the decoder's process; its own memory counts."""
    rng = np.random.default_rng(seed)
    claims = []
    for number in range(200):
        steps = int(np.exp(rng.uniform(np.log(LEAST_STEPS), np.log(MOST_STEPS + 1))))
        path = folder / f"{number:03d}.npz"
        np.savez(
            path,
            obs=rng.normal(size=(steps + 1, WIDTH)).astype(np.float32),
            action=rng.integers(2, size=steps),
            reward=rng.normal(size=steps),
            meta=np.array('{"terminated": true, "truncated": false}'),
        )
        if number % 20 == 7:
            path.write_bytes(path.read_bytes()[:-40])  # one in twenty is cut short
        claims.append(path)
    done = 0
    with Decoder() as decoder:
        while done < count:
            jobs = [
                DecodeJob(
                    claim_path=str(claims[int(rng.integers(len(claims)))]),
                    work_path=str(folder / f"work-{uuid7()}"),
                    name="a.npz",
                    ingested_at=time.time(),
                )
                for _ in range(64)
            ]
            for result in decoder.decode(jobs):
                Path(result.job.work_path).unlink(missing_ok=True)
            if done % every < len(jobs):
                report(done, decoder.pid)
            done += len(jobs)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # figures alone go out
    part, folder, count, every, seed = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    {"train": train, "replay": partial(train, reuse=2.0), "decode": decode}[part](folder, count, every, seed)
