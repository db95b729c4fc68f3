"""Publish in a child of this process that dies at its k-th call that changes the disk, for every k.

Arguments: a folder; each store is in <folder>/<k>. Prints how many calls a whole publish makes.
"""

import contextlib
import importlib
import os
import sys
from pathlib import Path

from store_tools import initial, publish

import policies.ledger_file  # noqa: F401 - once here, not in every child
from policies.store import CheckpointStore

with contextlib.suppress(ImportError):
    importlib.import_module("pandas")  # pyarrow loads it where it is there: once here, not in every child

CHANGES = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "write")


def die_at(k):
    calls = [0]

    def patched(real):
        def call(*args, **keywords):
            if calls[0] == k:
                os._exit(77)
            calls[0] += 1
            return real(*args, **keywords)

        return call

    for name in CHANGES:
        setattr(os, name, patched(getattr(os, name)))


def attempt(state, k):
    """Die at call k; 77 when that happened, 0 when the publish was done by then."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    store = CheckpointStore(state)
    first = publish(store, initial(), 1, "a")
    die_at(k)
    publish(store, first, 10, "b")
    os._exit(0)


folder, k = Path(sys.argv[1]), 0
while status := attempt(folder / str(k), k):
    if status != 77:
        sys.exit(f"the child for call {k} ended with status {status}")
    k += 1
print(k)
