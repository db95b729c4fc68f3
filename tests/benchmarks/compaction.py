"""Compaction: files, bytes and seconds of CPU before and after, for a day of small shards.

python tests/benchmarks/compaction.py [--shards 1000] [--episodes 8] [--steps 100]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from experience.archive_reader import ArchiveReader
from experience.compacted import CompactedShard
from experience.compaction import compact
from experience.compaction_output import Compacted
from experience.episode import Episode
from experience.spool import Spool


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=8, help="in a shard")
    parser.add_argument("--steps", type=int, default=100, help="of an episode")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.make_folders()
        for version in range(1, given.shards + 1):
            rows = [episode(version, i, given.steps) for i in range(given.episodes)]
            spool.archive(version, rows, published_at=0.0)
        tell("before", spool, given.shards)
        print(f"compaction: {compacted(spool)}")
        tell("after", spool, given.shards)


def episode(version, number, steps):
    """CartPole's shapes, of numbers that do not compress."""
    random = np.random.default_rng([version, number])
    return Episode(
        episode_id=f"{version}-{number}",
        client_id="bot",
        obs=random.normal(size=(steps + 1, 4)).astype(np.float32),
        action=random.integers(2, size=steps),
        reward=np.ones(steps),
        logp=-random.random(steps),
        terminated=True,
        truncated=False,
        policy_version=version,
        ended_at=1.0,
        ingested_at=2.0,
    )


def compacted(spool):
    steps = compact(spool.archive_folder, before="9999", ancestors=lambda: bool, report=Compacted())
    began_s, taken_s = time.perf_counter(), []
    while True:
        step_s = time.process_time()
        if next(steps, began_s) is not None:
            break
        taken_s.append(time.process_time() - step_s)
    spent_s = time.perf_counter() - began_s
    return f"{sum(taken_s):.1f} s of CPU, {spent_s:.1f} s, longest step {1e3 * max(taken_s):.0f} ms of CPU"


def tell(when, spool, n_versions):
    files = [path for path in spool.archive_folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    list_s = timed(lambda: ArchiveReader(spool.archive_folder).versions())
    reader = ArchiveReader(spool.archive_folder)
    one = [timed(lambda version=version: reader.rows(version)) for version in spread(n_versions, 50)]
    all_s = timed(lambda: [reader.rows(version) for version in range(1, n_versions + 1)])
    print(
        f"{when}: {len(files)} files, {size / 1e6:.1f} MB; {1e3 * list_s:.1f} ms to list the versions, "
        f"{1e3 * np.median(one):.1f} ms to read any one, {all_s:.2f} s to read all in order"
    )
    for path in files if len(files) < 10 else ():
        print(f"  {path.name}: {1e3 * timed(lambda path=path: CompactedShard(path).close()):.1f} ms to open")


def spread(n_versions, count):
    """Versions far from one another, so that nothing read before helps."""
    return [1 + (i * 7919) % n_versions for i in range(count)]


def timed(call):
    began_s = time.process_time()
    call()
    return time.process_time() - began_s


if __name__ == "__main__":
    main()
