"""Observations on which an export is compared with what was published: archived ones, else made-up ones."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learnerd.export.source import Source

ROWS = 1024
SPREADS = (0.1, 1.0, 3.0)
"""Times the usual deviation from the mean: common observations, and rare ones."""

Rows = NDArray[np.float32]


def drawn(source: Source, rows: int = ROWS) -> Rows:
    """Observations [rows, *shape] around the version's statistics; the same ones each time."""
    rng = np.random.default_rng(0)
    mean, inverse = source.normalizer.scale()
    spread = rng.choice(SPREADS, (rows, 1))
    real = mean + rng.standard_normal((rows, source.spec.statistics)) * spread / inverse
    flat, begin = np.empty((rows, source.spec.inputs), np.float32), 0
    for part in source.spec.parts:
        _, space, start, stop = part.leaf
        if space.counts:
            flat[:, start:stop] = rng.integers(0, space.counts, (rows, space.width))
        else:
            flat[:, start:stop] = real[:, begin : begin + space.width]
            begin += space.width
    return flat.reshape(rows, *source.spec.observation_shape)


def archived(archive: Path, source: Source, rows: int = ROWS) -> Rows | None:
    """The newest ``rows`` archived observations of the policy's shape; None when there is none."""
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow
    from experience.errors import ShardDamaged  # noqa: PLC0415

    found: list[Rows] = []
    reader = ArchiveReader(archive)
    for version in reversed(reader.versions()):
        try:
            episodes = reader.episodes(version)
        except (OSError, ShardDamaged):
            continue
        shape = source.spec.observation_shape
        found += [np.asarray(one.obs, np.float32) for one in episodes if one.obs.shape[1:] == shape]
        if sum(map(len, found)) >= rows:
            break
    return np.concatenate(found)[:rows] if found else None
