"""A spool and a store for the benchmarks, and files as a client writes them."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from experience.admission import Rules
from experience.decoder import Decoder
from experience.episode import Episode
from experience.outcomes import Outcomes
from experience.spool import Spool
from experience.writer import EpisodeWriter
from learnerd.admission import Admission
from learnerd.clock import Clock
from learnerd.intake import Intake
from policies.behavior import log_probs
from policies.checkpoint import Delta
from policies.initial import initial_checkpoint
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

WIDTH = 15
STEPS = 160
SPEC = PolicySpec(observation_shape=(WIDTH,), action=DiscreteSpace(n=2), hidden=(64, 64))
"""15 numbers an observation and 160 steps make an npz file of 15 kB."""


@contextmanager
def scratch():
    """An empty folder, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="speed-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def episodes(count, *, policy, seed=0, steps=STEPS, version=1):
    """Episodes with the log-probabilities of ``policy``, half to one and a half times ``steps`` long."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        n_steps = int(rng.integers(steps // 2, steps * 3 // 2 + 1))
        obs = rng.standard_normal((n_steps + 1, *policy.spec.observation_shape)).astype(np.float32)
        action = rng.integers(policy.spec.action.n, size=n_steps)
        made.append(
            Episode(
                episode_id=f"{seed}-{index}",
                client_id="bench",
                env_id="Bench-v0",
                action=action,
                reward=rng.standard_normal(n_steps),
                obs=obs,
                logp=log_probs(policy, obs[:-1], action),
                terminated=False,
                truncated=True,
                policy_version=version,
            )
        )
    return made


def deposit(spool, made):
    """Write ``made`` as a Python client would, one npz file each, and return the files."""
    writer, paths = EpisodeWriter(spool, client_id="bench", env_id="Bench-v0"), []
    for episode in made:
        for t in range(episode.n_steps):
            writer.step(
                episode.obs[t],
                int(episode.action[t]),
                float(episode.reward[t]),
                logp=float(episode.logp[t]),
                policy_version=episode.policy_version,
            )
        last = episode.obs[-1]
        paths.append(writer.end(last, terminated=episode.terminated, truncated=episode.truncated))
    return paths


class Site:
    """A spool, and a store with version 1, put together as the daemon does."""

    def __init__(self, folder):
        self.folder = folder
        self.policy = initial_checkpoint(SPEC, seed=0)
        self.store = CheckpointStore(folder / "state")
        self.store.publish(Delta(weights={}), base=self.policy, writer="daemon", episodes=[])
        self.spool = Spool(folder / "spool")
        self.spool.make_folders()
        clock = Clock(remember_s=3600.0)
        self.admission = Admission(
            store=self.store,
            spool=self.spool,
            outcomes=Outcomes(folder / "state" / "outcomes.jsonl"),
            rules=Rules(max_age_s=3600.0, max_staleness=64, logp_tolerance=0.01),
            clock=clock,
        )
        self.admission.learn_spec(SPEC)
        self.decoder = Decoder()
        self.decoder.start()
        self.intake = Intake(
            spool=self.spool, decoder=self.decoder, admission=self.admission, settle_s=0.0, clock=clock
        )

    @contextmanager
    def filled(self, files):
        """Copies of ``files`` in the inbox, to be taken; let go of at the end, as after a publish."""
        for path in files:
            aside = self.spool.root / "in" / f".tmp-{path.name}"
            shutil.copyfile(path, aside)
            aside.rename(aside.with_name(path.name))
        yield
        for arrival in self._arrivals:
            self.admission.finish(arrival)

    def take(self):
        """Claim, decode and admit everything that waits; the episodes."""
        self.intake.scan()
        arrivals = []
        while self.intake.has_work:
            arrivals += self.intake.take(1000)
        taken = [episode for arrival in arrivals for episode in arrival.episodes]
        self._arrivals = arrivals
        return taken

    def close(self):
        self.decoder.close()


@contextmanager
def site():
    """A Site in a scratch folder."""
    with scratch() as folder:
        made = Site(folder)
        try:
            yield made
        finally:
            made.close()
