"""Files with 64 episodes each, from the spool to a batch; against a bare pyarrow read of the same files."""

import pyarrow as pa
import pyarrow.parquet as pq
from speed_figures import Figure, side_by_side
from speed_site import SPEC, episodes, scratch, site

from experience.archive import write_shard
from experience.codec import decode
from experience.collate import collate

EPISODES = 64


def measure(*, small):
    """One figure a format."""
    with scratch() as folder, site() as here:
        files = 2 if small else 8
        made = [episodes(EPISODES, policy=here.policy, seed=seed + 1) for seed in range(files)]
        return [_measure(here, folder, made, kind, 3 if small else 11) for kind in ("parquet", "arrow")]


def _measure(here, folder, made, kind, rounds):
    paths = [folder / f"{index}.{kind}" for index in range(len(made))]
    for path, each in zip(paths, made, strict=True):
        _write(path, each)
    works = {
        "pyarrow": lambda: [READ[kind](path) for path in paths],
        "path": lambda: _path(here, len(paths)),
        "of which decode": lambda: [_decode(path) for path in paths],
    }
    found = side_by_side(works, rounds=rounds, around=lambda: here.filled(paths))
    return Figure(
        work=f"{kind}, {EPISODES} episodes a file: spool to batch, against pyarrow",
        value=found["path"] / found["pyarrow"],
        unit="x",
        most=2.0,
        parts={f"{name}, ms a file": 1e3 * seconds / len(paths) for name, seconds in found.items()}
        | {"kB a file": paths[0].stat().st_size / 1e3},
    )


def _write(path, made):
    if path.suffix == ".parquet":
        write_shard(path, made)
        return
    shard = path.with_suffix(".shard")
    write_shard(shard, made)
    table = pq.read_table(shard)
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def _read_parquet(path):
    table = pq.read_table(path, use_threads=False, page_checksum_verification=True)
    return table.column("obs").chunk(0).values.values.to_numpy()


def _read_arrow(path):
    with pa.ipc.open_file(pa.py_buffer(path.read_bytes())) as file:
        return [file.get_batch(index).num_rows for index in range(file.num_record_batches)]


READ = {"parquet": _read_parquet, "arrow": _read_arrow}


def _decode(path):
    return decode(path.read_bytes(), name=path.name, source_sha256="0" * 64, ingested_at=1.0)


def _path(here, n_files):
    batch = collate(here.take(), observation_shape=SPEC.observation_shape)
    assert batch.n_episodes == EPISODES * n_files
