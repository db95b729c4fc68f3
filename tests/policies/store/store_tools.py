"""Small policies and deltas for the store's tests: every number is an integer, so that sums are exact."""

import contextlib
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from experience.episode import EpisodeKey
from policies.checkpoint import Average, Checkpoint, Delta, LedgerEntry
from policies.normalizer import RunningStatistics
from policies.spec import DiscreteSpace, PolicySpec

CHANGES = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "write")
READS = ("open", "stat", "scandir", "listdir", "lstat")
SPEC = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(3,))


class Killed(BaseException):
    """The process is gone: nothing in it runs any more that could touch the disk."""


def initial(spec=SPEC):
    weights = {
        name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        for name, shape in spec.shapes().items()
    }
    return Checkpoint(
        version=0,
        parents=(),
        writer="",
        saved_at=0.0,
        spec=spec,
        weights=weights,
        averages={},
        normalizer=RunningStatistics.empty(spec.inputs),
        counters={},
    )


def entry(name, *, row=None, client="c", **fields):
    row = hashlib.sha256((row or str(name)).encode()).hexdigest()
    return LedgerEntry(key=EpisodeKey(client, str(name), 0, ""), row_sha256=row, **fields)


def entries(*names):
    return [entry(name) for name in names]


def delta(change=1.0, *, updates=1, spec=SPEC, **fields):
    weights = {name: np.full(shape, float(change)) for name, shape in spec.shapes().items()}
    return Delta(weights=weights, counters={"updates": updates}, **fields)


def scalar(value, retained):
    return Average(value=np.array(float(value)), retained=retained)


def added(checkpoint):
    """By how much every weight differs from the initial one; fails unless it is the same for all."""
    start = initial(checkpoint.spec).weights
    differences = {
        float(difference)
        for name, weights in checkpoint.weights.items()
        for difference in np.unique(weights - start[name])
    }
    assert len(differences) == 1
    return differences.pop()


def publish(store, base, change, *names, writer="daemon", **fields):
    return store.publish(delta(change), base=base, writer=writer, episodes=entries(*names), **fields)


def fail_at(patch, k, error, *, once, names):
    """Let the k-th of the named calls raise; with `once` False every later one too. Returns the counter."""
    calls = []

    def patched(name, real):
        def call(*args, **keywords):
            if name == "io.open" and args[1:] != ("wb",) and keywords.get("mode") != "wb":
                return real(*args, **keywords)
            calls.append(name)
            if len(calls) - 1 == k or (len(calls) - 1 > k and not once):
                raise error
            return real(*args, **keywords)

        return call

    for name in names:
        patch.setattr(os, name, patched(name, getattr(os, name)))
    patch.setattr(io, "open", patched("io.open", io.open))
    return calls


def folders(state: Path):
    return sorted(path.name for path in (state / "checkpoints").iterdir())


@contextlib.contextmanager
def dying(at):
    """The process ends at its next call that changes the disk but ``at``; what follows never happens.

    None: it does not end.
    """
    real, calls = {name: getattr(os, name) for name in CHANGES}, [0]

    def patched(call):
        def count(*args, **keywords):
            calls[0] += 1
            if at is not None and calls[0] > at:
                raise Killed
            return call(*args, **keywords)

        return count

    for name in CHANGES:
        setattr(os, name, patched(real[name]))
    try:
        yield
    except Killed:
        pass
    finally:
        for name in CHANGES:
            setattr(os, name, real[name])
