"""The loop's waits, without running it."""

import math
from concurrent.futures import Future

import pytest

from experience.claims import Claim
from learnerd import daemon
from learnerd.arrival import Arrival
from learnerd.config import Config
from learnerd.loop import LOOK_EVERY_S
from learnerd.notify import Notifier
from learnerd.requests import Requests


@pytest.fixture
def config(tmp_path):
    return Config.model_validate(
        {
            "paths": {"spool": tmp_path / "spool", "state": tmp_path / "state"},
            "learner": {"device": "cpu"},
            "batch": {"min_episodes": 1, "chunk_episodes": 1, "max_chunks": 1},
        }
    )


@pytest.fixture
def claim(tmp_path):
    return Claim(id="c", attempt=1, name="cut-short.jsonl", location=str(tmp_path / "cut-short.jsonl"))


def test_a_full_queue_waits_for_the_trainer_even_when_a_retry_is_due(config, claim, make_episode):
    with daemon._build(config, "forever", Requests()) as loop:
        loop._next_scan_s = loop._next_status_s = math.inf
        loop._trainer._future = Future()  # a cycle is under way
        loop._intake._retry(claim, delay_s=0.0, resumed=False)
        assert loop._wait_s() == 0.0
        episodes = (make_episode("a"), make_episode("b"))
        waiting = Arrival(claim=claim, episodes=episodes, claimed_at=0.0, seen_s=0.0, mtime_s=0.0)
        loop._pending.add([waiting], now_s=loop._clock.monotonic())
        assert loop._pending.room(1) == 0
        assert loop._wait_s() == LOOK_EVERY_S


def test_a_stop_between_the_last_round_and_the_end_is_told_too(config, monkeypatch):
    requests = Requests()
    told = []
    monkeypatch.setattr(Notifier, "stopping", lambda _, text: told.append(text))
    with daemon._build(config, "forever", requests) as loop:
        loop.start()
        monkeypatch.setattr(loop, "_round", lambda: setattr(requests, "stop", True))
        loop._wake.set()
        assert loop.run() == 0
    assert told == ["draining"]
