"""Housekeeping: when the store is pruned between two nights."""

import threading
from concurrent.futures import Future
from unittest.mock import Mock

import pytest

from learnerd.config import load_config
from learnerd.maintenance import PRUNE_EVERY, Housekeeping
from policies.checkpoint import Delta
from policies.errors import StoreError
from policies.store import CheckpointStore


@pytest.fixture
def parts():
    return {name: Mock() for name in ("trainer", "store", "spool", "admission", "scrub", "reporter", "clock")}


@pytest.fixture
def housekeeping(tmp_path, parts):
    (tmp_path / "config.toml").write_text("")
    made = Housekeeping(load_config(tmp_path / "config.toml", {}), wake=threading.Event(), **parts)
    yield made
    made.close()


def test_pruned_as_often_where_an_online_learner_takes_every_other_number(housekeeping, parts):
    for version in range(1, 4 * PRUNE_EVERY, 2):
        housekeeping.published(version)
        housekeeping.step()
    assert parts["trainer"].submit.call_count == 3


def test_nothing_hides_how_maintenance_ended(housekeeping, parts):
    nightly = Future()
    parts["trainer"].submit.side_effect = [nightly, Future()]
    housekeeping.make_room()
    housekeeping.step()
    housekeeping.published(PRUNE_EVERY)
    nightly.set_exception(OSError(28, "injected"))
    housekeeping.step()
    (failure,) = parts["reporter"].failure.call_args_list
    assert failure.args[:2] == ("maintenance_failed", nightly.exception())
    housekeeping.published(PRUNE_EVERY + 1)
    assert parts["trainer"].submit.call_count == 2


def test_what_others_publish_is_pruned_where_nothing_is_learned(housekeeping, parts):
    jobs = []

    def submit(job):
        jobs.append(job)
        future = Future()
        if job == parts["store"].highest_used:
            future.set_result(job())
        return future

    parts["trainer"].submit = submit
    for highest in (PRUNE_EVERY - 1, PRUNE_EVERY, PRUNE_EVERY + 1):
        parts["store"].highest_used.return_value = highest
        housekeeping.look()
        housekeeping.look()
        housekeeping.step()
    assert [job == parts["store"].highest_used for job in jobs] == [True, True, False, True]


def test_a_look_that_fails_is_repeated(housekeeping, parts):
    failed = Future()
    failed.set_exception(StoreError("the versions cannot be listed"))
    parts["trainer"].submit.return_value = failed
    for _ in range(2):
        housekeeping.look()
        housekeeping.step()
    assert parts["trainer"].submit.call_count == 2
    assert not parts["reporter"].method_calls


def test_an_online_learner_alone_does_not_fill_the_disk(site, drop):
    site.configure("[store]\nkeep_last = 2\nkeep_minutes = 0.0\n[admission]\nmax_staleness = 2\n")
    drop()
    assert site.run_here() == 0
    store = CheckpointStore(site.state)
    head = store.head()
    process = site.start(patch="import learnerd.loop; learnerd.loop.HEARTBEAT_S = 0.1")
    for _ in range(2 * PRUNE_EVERY):
        head = store.publish(Delta(weights={}), base=head, writer="online", episodes=[])
    site.wait(lambda: len(store.versions()) <= PRUNE_EVERY, what="fewer versions")
    assert site.stop(process) == 0
