"""The main job on real data: a trading client feeds the daemon, and its policy beats random trading."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from experience.archive import read_shard

CLIENT = Path(__file__).with_name("client.py")
ROOT = Path(__file__).parents[2]
SEEDS = [(0,), pytest.param((1, 2), marks=pytest.mark.slow)]
UPDATES = 40
LEARN_S = 60.0
SEGMENTS_PER_SESSION = 8

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("seeds", SEEDS)
def test_learned_trading_beats_random_trading(tmp_path, capsys, seeds):
    outcomes = [learn_and_evaluate(tmp_path / str(seed), seed) for seed in seeds]

    with capsys.disabled():
        print("\n\nprofit of a segment of 50 hourly EURUSD bars, in pips (mean ± standard error):")
        for seed, outcome in zip(seeds, outcomes, strict=True):
            print(f"  seed {seed}: {describe(outcome)}")
    for outcome in outcomes:
        (learned, learned_error), (rand, rand_error) = summary(outcome["learned"]), summary(outcome["random"])
        assert learned - rand > 4 * math.hypot(learned_error, rand_error)
        assert learned > 0


def learn_and_evaluate(folder, seed):
    """Let the daemon learn from one client for a while; evaluate what it published last."""
    started_s = time.monotonic()
    write_config(folder, seed)
    state = folder / "state"
    arguments = ["--spool", str(folder / "spool"), "--state", str(state), "--seed", str(seed)]
    with process(folder, "daemon", "-m", "learnerd", "run", "--config", str(folder / "config.toml")):
        wait_for(lambda: status(state)["daemon"]["state"] == "running", "the daemon to be ready", folder)
        with process(folder, "client", str(CLIENT), "play", *arguments):
            wait_for(lambda: (status(state)["learning"]["updates"] or 0) >= UPDATES, "enough updates", folder)
    document = status(state)
    check_what_was_learned(folder, document)
    found = evaluate(state, seed)
    return found | {
        "segments": document["episodes"]["learned"],
        "updates": document["learning"]["updates"],
        "seconds": time.monotonic() - started_s,
    }


def write_config(folder, seed):
    folder.mkdir()
    (folder / "config.toml").write_text(f"[learner]\nseed = {seed}\n")


@contextmanager
def process(folder, name, *arguments):
    """Run ``python ARGUMENTS``; SIGTERM at the end, which the daemon must answer with exit code 0."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with (folder / f"{name}.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, cwd=folder, env=env)
    try:
        yield
        assert child.poll() is None, (folder / f"{name}.log").read_text()
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) in (0, -signal.SIGTERM)
    finally:
        child.kill()
        child.wait()


def wait_for(condition, what, folder):
    deadline_s = time.monotonic() + LEARN_S
    while not condition():
        if time.monotonic() > deadline_s:
            logs = "\n".join(file.read_text()[-2000:] for file in folder.glob("*.log"))
            pytest.fail(f"waited {LEARN_S} s for {what}\n{logs}")
        time.sleep(0.1)


def status(state):
    """What the daemon last said, or nothing yet."""
    try:
        return json.loads((state / "status.json").read_bytes())
    except FileNotFoundError:
        return {"daemon": {"state": "never"}, "learning": {"updates": None}}


def check_what_was_learned(folder, document):
    """Every segment is a truncated piece of one growing session, and none was unreadable."""
    shards = sorted((folder / "spool" / "archive").rglob("*.parquet"))
    episodes = [episode for shard in shards for episode in read_shard(shard)]
    assert document["episodes"]["quarantined"] == {}
    assert len(episodes) == document["episodes"]["learned"]
    assert {episode.segment for episode in episodes} == set(range(SEGMENTS_PER_SESSION))
    assert len({episode.key for episode in episodes}) == len(episodes)
    assert all(episode.truncated and not episode.terminated for episode in episodes)
    assert all(len(episode.obs) == episode.n_steps + 1 for episode in episodes)
    pieces = {(episode.episode_id, episode.segment): episode for episode in episodes}
    followed = [
        (piece, pieces[name, segment + 1])
        for (name, segment), piece in pieces.items()
        if (name, segment + 1) in pieces
    ]
    assert len(followed) > len(episodes) / 2
    assert all((piece.obs[-1] == successor.obs[0]).all() for piece, successor in followed)


def evaluate(state, seed):
    argv = [sys.executable, str(CLIENT), "evaluate", "--state", str(state), "--seed", str(seed)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(argv, env=env, check=True, capture_output=True, timeout=60).stdout)


def describe(outcome):
    learned, rand = ("{:6.1f} ± {:.1f}".format(*summary(outcome[name])) for name in ("learned", "random"))
    return (
        f"learned {learned}, random {rand}  ({outcome['segments']} segments, {outcome['updates']} updates, "
        f"version {outcome['version']}, {outcome['seconds']:.0f} s)"
    )


def summary(profits):
    """Mean and its standard error."""
    return statistics.fmean(profits), statistics.stdev(profits) / math.sqrt(len(profits))
