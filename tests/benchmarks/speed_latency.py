"""From the rename of an episode's file to the rename of CURRENT: one after another, an idle daemon."""

import time

from speed_daemon import Daemon, running
from speed_figures import Figure, percentile
from speed_site import SPEC, deposit, episodes, scratch

from policies.initial import initial_checkpoint

SETTINGS = "[batch]\nmin_episodes = 1\nmax_wait_s = 0.0\n"
POLL_S = 0.0005
PAUSE_S = 0.05
PATIENCE_S = 30.0


def measure(*, small):
    """The batch closes with its first episode, so that nothing of the time is waiting for others."""
    count = 5 if small else 200
    with scratch() as folder:
        daemon = Daemon(folder, SETTINGS)
        # No version logs what these did: they come from a policy that was never published.
        made = episodes(count + 1, policy=initial_checkpoint(SPEC, seed=0), version=0)
        files = deposit(folder / "made", made)
        with running(daemon):
            found = [_once(daemon, path) for path in files][1:]
            time.sleep(PAUSE_S)
            latency = daemon.status()["latency"]
    parts = {
        "update, ms": 1e3 * latency["update_s"],
        "publish and archive, ms": 1e3 * latency["publish_s"],
        "the slowest, ms": 1e3 * max(found),
    }
    return [
        Figure(
            work="drop to publish, p50", value=1e3 * percentile(found, 50), unit="ms", most=50.0, parts=parts
        ),
        Figure(work="drop to publish, p99", value=1e3 * percentile(found, 99), unit="ms", most=200.0),
    ]


def _once(daemon, path):
    before = daemon.version()
    started = time.perf_counter()
    path.rename(daemon.spool / "in" / path.name)
    while daemon.version() == before:
        time.sleep(POLL_S)
        if time.perf_counter() - started > PATIENCE_S:
            raise RuntimeError(f"{path.name} was not learned within {PATIENCE_S} s")
    seconds = time.perf_counter() - started
    time.sleep(PAUSE_S)
    return seconds
