"""From the bytes of an inbound file to episodes. Each format is one module and one line in ``_READERS``.

A module has a function ``read``; where files of its format are small and many, ``reading`` beside it does the
same in steps.
"""

import functools
import importlib
import os.path
from collections.abc import Mapping

import numpy as np

from experience.codec.contract import Decoded, Limits, Reader, Source, SteppedReader
from experience.errors import reject
from experience.in_step import Steps, finish

__all__ = ["Decoded", "Limits", "Source", "accepted_extensions", "decode", "decoding"]

_READERS: Mapping[str, str] = {
    ".npz": "experience.codec.npz",
    ".jsonl": "experience.codec.jsonl",
    ".parquet": "experience.codec.parquet",
    ".arrow": "experience.codec.arrow",
}
"""Extension -> module with a function ``read``; imported on first use."""


_DEFAULT_LIMITS = Limits()


def accepted_extensions() -> tuple[str, ...]:
    """The file name extensions that ``decode`` knows."""
    return tuple(_READERS)


def decode(
    data: bytes,
    *,
    name: str,
    source_sha256: str,
    ingested_at: float,
    limits: Limits | None = None,
) -> Decoded:
    """Read a file's bytes; the format goes by the extension of ``name``.

    Raises:
        InputError: the whole file cannot be read; ``truncated`` when it may merely be cut short.
    """
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is refused by name
        steps = decoding(data, name=name, source_sha256=source_sha256, ingested_at=ingested_at, limits=limits)
        return finish(steps).checked()


def decoding(
    data: bytes,
    *,
    name: str,
    source_sha256: str,
    ingested_at: float,
    limits: Limits | None = None,
) -> Steps[Decoded]:
    """Do the same in steps, but leave ``checked`` to the caller. NumPy must ignore overflows.

    Raises:
        InputError: as ``decode``, from one of the steps.
    """
    source = Source(
        name=name, sha256=source_sha256, ingested_at=ingested_at, limits=limits or _DEFAULT_LIMITS
    )
    reading = _reader(name)
    if len(data) > source.limits.max_file_bytes:
        raise reject("too_large", "file size", len(data), f"at most {source.limits.max_file_bytes} bytes")
    if not data:
        raise reject("truncated", "file size", "0 bytes", "a file with an episode")
    return (yield from reading(data, source))


def _reader(name: str) -> SteppedReader:
    extension = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a tenth of the time of a small file
    if extension not in _READERS:
        accepted = f"a name that ends with {' or '.join(_READERS)}"
        raise reject("unknown_format", "file name", ascii(name), accepted)
    return _imported(extension)


@functools.cache
def _imported(extension: str) -> SteppedReader:
    module = importlib.import_module(_READERS[extension])
    reading: SteppedReader | None = getattr(module, "reading", None)
    return reading or _at_once(module.read)


def _at_once(read: Reader) -> SteppedReader:
    def reading(data: bytes, source: Source) -> Steps[Decoded]:
        yield from ()
        return read(data, source)

    return reading
