"""What acting costs a client: ``Actor.act`` with one observation, and ``refresh`` when nothing changed."""

import os
import time

import numpy as np
from speed_figures import Figure, percentile
from speed_site import WIDTH, Site, scratch

from policies import Actor

LONG_AGO_S = 3600


def measure(*, small):
    """The median of single calls, as a client in a game would see them."""
    calls = 2_000 if small else 50_000
    with scratch() as folder:
        Site(folder).close()
        state = folder / "state"
        os.utime(state / "CURRENT", (time.time() - LONG_AGO_S,) * 2)
        actor = Actor(state, seed=0)
        obs = np.random.default_rng(0).standard_normal((256, WIDTH)).astype(np.float32)
        act = _each([lambda row=row: actor.act(row) for row in obs], calls)
        refresh = _each([actor.refresh], calls)
        empty = _each([lambda: None], calls)
    parts = {"p99, µs": percentile(act, 99), "of which the measuring, µs": percentile(empty, 50)}
    return [
        Figure(
            work="Actor.act, batch 1, 64x64, p50", value=percentile(act, 50), unit="µs", most=6.0, parts=parts
        ),
        Figure(
            work="Actor.refresh without a change, p50", value=percentile(refresh, 50), unit="µs", most=10.0
        ),
    ]


def _each(works, calls):
    """Microseconds of each call; a quarter of them is for warming up."""
    clock, found = time.perf_counter_ns, []
    for index in range(calls + calls // 4):
        work = works[index % len(works)]
        started = clock()
        work()
        found.append((clock() - started) / 1000)
    return found[calls // 4 :]
