"""Harness: a daemon and a world's clients as processes, which share nothing but files.

A client is a program in ``clients`` with two commands:

    python CLIENT play --spool SPOOL --state STATE --seed N …
        plays and deposits until SIGTERM, ends the episode, prints {"deposited": how many}, ends with 0
    python CLIENT evaluate --state STATE --seed N …
        prints {"version": …, "learned": [returns], "random": [returns]}

``learn(World(…), folder, seed)`` starts the daemon and the clients, waits until so many steps are learned,
stops the clients, waits until every deposited episode has been learned, stops the daemon, and evaluates its
last version.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experience.archive import read_shard
from experience.episode import Episode

CLIENTS = Path(__file__).with_name("clients")
ROOT = Path(__file__).parents[2]
POLL_S = 0.1
START_S = 120.0
STOP_S = 120.0
EVALUATE_S = 600.0
EVALUATION_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class World:
    """A world to learn.

    Attributes:
        client: the program in ``clients``, without its ending.
        steps: learned environment steps after which the clients are stopped.
        config: what the user's config.toml says.
        play, evaluate: further options of the client's two commands.
        clients: how many play at once; the seed of each is another.
        within_s: how long learning may take, generously: the machine may be busy.
    """

    client: str
    steps: int
    config: str = ""
    play: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    clients: int = 1
    within_s: float = 240.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        learned, random: returns of episodes of the last version, and of random play.
        version: the last one.
        status: what the daemon said last.
        site: its folder.
        seconds: from the daemon's start to its end.
    """

    learned: list[float]
    random: list[float]
    version: int
    status: dict[str, Any]
    site: "Site"
    seconds: float

    def __str__(self) -> str:
        episodes, counts = self.status["episodes"]["learned"], self.status["learning"]
        return (
            f"learned {_figure(self.learned)}, random {_figure(self.random)}  "
            f"({episodes} episodes, {counts['steps']} steps, {counts['updates']} updates, "
            f"version {self.version}, {self.seconds:.0f} s)"
        )

    @property
    def standard_errors(self) -> float:
        """By how many standard errors of the difference what was learned is better than random play."""
        error = math.hypot(_error(self.learned), _error(self.random))
        gain = statistics.fmean(self.learned) - statistics.fmean(self.random)
        return gain / error if error else math.copysign(math.inf, gain)


class Site:
    """A folder with a config.toml, a daemon over it, and other processes beside it.

    Args:
        folder: must not exist yet.
        config: of the daemon.
        env: further variables of every process.
    """

    def __init__(self, folder: Path, config: str = "", env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder, self.spool, self.state = folder, folder / "spool", folder / "state"
        self._config = folder / "config.toml"
        self._config.write_text(config)
        self._children: dict[str, subprocess.Popen] = {}
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **(env or {})}

    @contextmanager
    def process(
        self, name: str, *command: str, exit_codes: tuple[int, ...] = (0,)
    ) -> Iterator[subprocess.Popen]:
        """Run a command meanwhile; SIGTERM ends it, and it has to answer with one of ``exit_codes``.

        What it prints goes to ``<name>.out``, its errors to ``<name>.log``.
        """
        with self._file(name, "out").open("wb") as out, self._file(name, "log").open("wb") as log:
            child = subprocess.Popen(command, stdout=out, stderr=log, cwd=self.folder, env=self._env)
        self._children[name] = child
        try:
            yield child
            self._check_alive()
            child.send_signal(signal.SIGTERM)
            assert child.wait(STOP_S) in exit_codes, f"{name} ended with {child.returncode}\n{self.logs()}"
        finally:
            del self._children[name]
            child.kill()
            child.wait()

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen]:
        """Run the daemon meanwhile, ready from the start."""
        command = [sys.executable, "-m", "learnerd", "run", "--config", str(self._config)]
        with self.process("daemon", *command) as child:
            self.wait_for(self._is_ready, "the daemon to be ready", START_S)
            yield child

    @contextmanager
    def client(
        self, program: str, *options: str, seed: int, name: str = "client"
    ) -> Iterator[subprocess.Popen]:
        """Let a client play meanwhile."""
        folders = ["--spool", str(self.spool), "--state", str(self.state)]
        with self.process(name, *_python(program, "play"), *folders, "--seed", str(seed), *options) as child:
            yield child

    def deposited(self, name: str = "client") -> int:
        """How many episodes a client that has ended says it deposited."""
        return json.loads(self._file(name, "out").read_text().splitlines()[-1])["deposited"]

    def evaluate(self, program: str, *options: str, seed: int) -> dict[str, Any]:
        """What a client prints of the last version and of random play."""
        command = [*_python(program, "evaluate"), "--state", str(self.state), "--seed", str(seed), *options]
        done = subprocess.run(command, env=self._env, capture_output=True, timeout=EVALUATE_S, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout.splitlines()[-1])

    def status(self) -> dict[str, Any] | None:
        """What the daemon last said; None before it said anything."""
        try:
            return json.loads((self.state / "status.json").read_bytes())
        except FileNotFoundError:
            return None

    def wait_for(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        """Wait for something that may take a while; fail when it does not come, or a process ends early."""
        deadline_s = time.monotonic() + within_s
        while not condition():
            self._check_alive()
            if time.monotonic() > deadline_s:
                pytest.fail(f"waited {within_s:.0f} s for {what}\n{self.status()}\n{self.logs()}")
            time.sleep(POLL_S)

    def episodes(self) -> list[Episode]:
        """Every archived episode."""
        shards = sorted((self.spool / "archive").rglob("*.parquet"))
        return [episode for shard in shards for episode in read_shard(shard)]

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in self.folder.glob("*.log"))

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}.{ending}"

    def _check_alive(self) -> None:
        for name, child in self._children.items():
            assert child.poll() is None, f"{name} ended with {child.returncode}\n{self.logs()}"

    def _is_ready(self) -> bool:
        document = self.status()
        return document is not None and document["daemon"]["state"] == "running"


def learn(world: World, folder: Path, seed: int) -> Outcome:
    """Learn a world from its clients, check that every episode counted once, and evaluate it."""
    started_s = time.monotonic()
    site = Site(folder, world.config, {"LEARNERD_LEARNER_SEED": str(seed)})
    names = [f"client-{number}" for number in range(world.clients)]
    with site.daemon():
        with ExitStack() as playing:
            for number, name in enumerate(names):
                own_seed = seed * world.clients + number
                playing.enter_context(site.client(world.client, *world.play, seed=own_seed, name=name))
            site.wait_for(
                lambda: site.status()["learning"]["steps"] >= world.steps,
                f"{world.steps} steps",
                world.within_s,
            )
        deposited = sum(site.deposited(name) for name in names)
        site.wait_for(lambda: accounted(site.status()) == deposited, f"all of {deposited} episodes", START_S)
    seconds = time.monotonic() - started_s
    check_account(site, deposited)
    found = site.evaluate(world.client, *world.evaluate, seed=seed + EVALUATION_SEED)
    return Outcome(**found, status=site.status(), site=site, seconds=seconds)


def accounted(status: Mapping[str, Any]) -> int:
    """How many episodes have got a verdict."""
    episodes = status["episodes"]
    return episodes["learned"] + sum(episodes["refused"].values()) + sum(episodes["quarantined"].values())


def check_account(site: Site, deposited: int) -> None:
    """Every episode was learned, once; nothing was refused, set aside or left behind."""
    counts, episodes = site.status()["episodes"], site.episodes()
    assert counts["refused"] == {}, site.logs()
    assert counts["quarantined"] == {}, site.logs()
    assert counts["learned"] == deposited == len(episodes)
    assert len({episode.key for episode in episodes}) == len(episodes)
    assert not [
        file for folder in ("in", "claimed") for file in (site.spool / folder).rglob("*") if file.is_file()
    ]


def check_better_than_random(outcome: Outcome) -> None:
    """What was learned is better than random play by more than four standard errors of the difference."""
    assert outcome.standard_errors > 4, str(outcome)


def show(capsys: pytest.CaptureFixture[str], title: str, outcome: Outcome) -> None:
    """Print a figure to the terminal, whatever pytest captures."""
    with capsys.disabled():
        print(f"\n{title}: {outcome}", flush=True)


def _python(program: str, command: str) -> list[str]:
    return [sys.executable, str(CLIENTS / f"{program}.py"), command]


def _figure(returns: list[float]) -> str:
    return f"{statistics.fmean(returns):.4g} ± {_error(returns):.2g}"


def _error(returns: list[float]) -> float:
    return statistics.stdev(returns) / math.sqrt(len(returns))
