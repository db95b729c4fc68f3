"""A daemon that has nothing to do, with a large archive and an inbox full of files that are not finished."""

import time

from speed_daemon import Daemon, busy_s, memory_mb, running
from speed_figures import Figure
from speed_site import SPEC, deposit, episodes, scratch

from experience.spool import Spool
from policies.initial import initial_checkpoint

SETTINGS = "[admission]\nsettle_s = 1e6\n"  # a file that was not closed under its eyes waits as long as that
ARCHIVED, WAITING = 100_000, 10_000
DAYS = 29
DAY_S = 86_400.0


def measure(*, small):
    """Its share of a core and its memory, over a minute that begins when it has looked round."""
    archived, waiting, seconds = (200, 100, 3.0) if small else (ARCHIVED, WAITING, 60.0)
    with scratch() as folder:
        daemon = Daemon(folder, SETTINGS)
        made = episodes(1, policy=initial_checkpoint(SPEC, seed=0), version=0)
        spool = Spool(daemon.spool)
        spool.make_folders()
        _archive(spool, made, archived)
        (file,) = deposit(folder / "made", made)
        _put(spool, file.read_bytes(), waiting)
        with running(daemon) as process:
            time.sleep(1.0 if small else 20.0)
            before, started = busy_s(process.pid), time.monotonic()
            time.sleep(seconds)
            share = (busy_s(process.pid) - before) / (time.monotonic() - started)
            size = memory_mb(process.pid)
    work = f"at rest, {archived:,} archived and {waiting:,} waiting files"
    return [
        Figure(work=f"{work}: share of a core", value=100 * share, unit="%", most=1.0),
        Figure(work=f"{work}: memory", value=size, unit="MB", most=450.0),
    ]


def _archive(spool, made, count):
    """One shard a version, over DAYS days; the bytes are those of one."""
    first = spool.archive(1, made, published_at=time.time())
    data, now_s = first.read_bytes(), time.time()
    for version in range(2, count + 1):
        day = time.strftime("%Y-%m-%d", time.gmtime(now_s - DAY_S * (version % DAYS)))
        folder = first.parents[1] / day
        folder.mkdir(exist_ok=True)
        (folder / f"{version:08d}.parquet").write_bytes(data)


def _put(spool, data, count):
    for index in range(count):
        path = spool.root / "in" / f"{index}.npz"
        path.write_bytes(data)
