"""One of two writers. Arguments: state, writer, change of a publish, how many publishes, "lock" or "none".

Every publish begins from what this writer published last, however often the other one published since; every
fifth begins from the head. Neither gets more than two ahead of the other. Begins at a line on stdin.
"""

import contextlib
import sys
import time

from store_tools import initial, publish

from policies import ledger_file
from policies.store import CheckpointStore

state, writer, change, count, lock = sys.argv[1:]
store = CheckpointStore(state)
if lock == "none":
    store._publisher.locked = lambda name: contextlib.nullcontext()
ledger_file.encode_entries([])  # what is slow the first time is done before both begin
print("ready", flush=True)
sys.stdin.readline()
base = store.head() or initial()
for i in range(int(count)):
    while store.head().counters["updates"] - 1 - i < i - 2:
        time.sleep(0.0005)
    if i % 5 == 0:
        base = store.head() or base
    base = publish(store, base, float(change), f"{writer}-{i}", writer=writer)
