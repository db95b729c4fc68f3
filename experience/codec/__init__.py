"""From the bytes of an inbound file to episodes. Each format is one module and one line in ``_READERS``."""

import functools
import importlib
import os.path
from collections.abc import Mapping

import numpy as np

from experience.codec.contract import Decoded, Limits, Reader, Source
from experience.errors import reject

__all__ = ["Decoded", "Limits", "Source", "accepted_extensions", "decode"]

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
    source = Source(
        name=name, sha256=source_sha256, ingested_at=ingested_at, limits=limits or _DEFAULT_LIMITS
    )
    read = _reader(name)
    if len(data) > source.limits.max_file_bytes:
        raise reject("too_large", "file size", len(data), f"at most {source.limits.max_file_bytes} bytes")
    if not data:
        raise reject("truncated", "file size", "0 bytes", "a file with an episode")
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is refused by name
        return read(data, source)


def _reader(name: str) -> Reader:
    extension = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a tenth of the time of a small file
    if extension not in _READERS:
        accepted = f"a name that ends with {' or '.join(_READERS)}"
        raise reject("unknown_format", "file name", ascii(name), accepted)
    return _imported(extension)


@functools.cache
def _imported(extension: str) -> Reader:
    reader: Reader = importlib.import_module(_READERS[extension]).read
    return reader
