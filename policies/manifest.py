"""A version directory on disk: its names, its manifest, and reading it with every hash checked.

What is parsed is what was hashed: each file is read once. Needs numpy and safetensors, nothing else.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies.checkpoint import Arrays, Checkpoint
from policies.errors import NewerRelease, NotAVersion, VersionDamaged, VersionPruned
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
LEDGER = "ledger.parquet"
DELTA = "delta.safetensors"
HIGHEST_VERSION = 99_999_999  # eight digits
VERSION_NAME = re.compile(r"[0-9]{8}")

_STATISTICS = ("count", "mean", "m2")
# What the kernel says when the medium or the directory itself is broken; any other error (permissions, too
# many open files) says nothing about the version and is raised as it is.
BROKEN = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENXIO,
    errno.EIO,
    errno.EBADMSG,
    errno.EUCLEAN,
}


class ActorVersion(NamedTuple):
    """What acting with a version needs."""

    spec: PolicySpec
    weights: Arrays
    normalizer: RunningStatistics
    manifest: Mapping[str, Any]


def version_folder(state_dir: str | os.PathLike[str], version: int) -> Path:
    """Where a version's files are."""
    return Path(state_dir, "checkpoints", f"{version:08d}")


def read_current(state_dir: str | os.PathLike[str]) -> int | None:
    """The version that ``CURRENT`` names; None when it is missing or torn."""
    try:
        text = Path(state_dir, "CURRENT").read_bytes()
    except FileNotFoundError:
        return None
    name = text.removesuffix(b"\n").decode("ascii", "replace")
    return int(name) or None if VERSION_NAME.fullmatch(name) else None


def read_actor(state_dir: str | os.PathLike[str], version: int) -> ActorVersion:
    """Read what acting needs; hashes are checked.

    Raises:
        VersionPruned: the version existed, but is gone.
        NotAVersion: it is above CURRENT and not there.
        VersionDamaged: its files are not what its manifest says.
        OSError: it could not be read just now.
    """
    folder = version_folder(state_dir, version)
    try:
        manifest = read_manifest(folder, version)
        spec = _read_spec(manifest, version)
        weights, normalizer = parse_model(read_file(folder, manifest, MODEL), spec, version)
    except VersionPruned:
        if 0 < version <= (read_current(state_dir) or 0):
            raise
        raise NotAVersion(version=version) from None
    return ActorVersion(spec=spec, weights=weights, normalizer=normalizer, manifest=manifest)


def read_checkpoint(state_dir: str | os.PathLike[str], version: int) -> Checkpoint:
    """Read a whole version; every file that the manifest lists is checked.

    Raises:
        VersionPruned: there is no such directory.
        VersionDamaged: its files are not what its manifest says.
        OSError: it could not be read just now.
    """
    folder = version_folder(state_dir, version)
    manifest = read_manifest(folder, version)
    spec = _read_spec(manifest, version)
    files = {name: read_file(folder, manifest, name) for name in manifest["files"]}
    for name in (MODEL, OPTIMIZER, LEDGER):
        if name not in files:
            raise VersionDamaged(version=version, file=MANIFEST, reason=f"does not list {name}")
    weights, normalizer = parse_model(files[MODEL], spec, version)
    return checkpoint_of(
        manifest,
        spec=spec,
        weights=weights,
        averages=parse_arrays(files[OPTIMIZER], version, OPTIMIZER),
        normalizer=normalizer,
    )


def checkpoint_of(
    manifest: Mapping[str, Any],
    *,
    spec: PolicySpec,
    weights: Arrays,
    averages: Arrays,
    normalizer: RunningStatistics,
) -> Checkpoint:
    """Join a manifest with the arrays of its version."""
    return Checkpoint(
        version=manifest["version"],
        parents=tuple(manifest["parents"]),
        writer=manifest["writer"],
        saved_at=manifest["saved_at"],
        spec=spec,
        weights=weights,
        averages=averages,
        normalizer=normalizer,
        counters=dict(manifest["counters"]),
        manifest=manifest,
    )


def encode_manifest(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON in one line, with the sha256 of everything else in it as ``self_sha256``.

    Raises:
        ValueError: a number is not finite. TypeError: a value is not JSON.
    """
    plain = {name: value for name, value in document.items() if name != "self_sha256"}
    digest = hashlib.sha256(_canonical(plain)).hexdigest()
    return _canonical({**plain, "self_sha256": digest}) + b"\n"


def read_manifest(folder: Path, version: int) -> dict[str, Any]:
    """Read and check a manifest; a single flipped bit is noticed.

    Raises:
        VersionPruned: there is no such directory.
        VersionDamaged: the manifest is missing, or not as it was written.
        NewerRelease: it is in a schema that this release cannot read.
        OSError: it could not be read just now.
    """
    return parse_manifest(_read_bytes(folder, version, MANIFEST), version, where=folder / MANIFEST)


def parse_manifest(data: bytes, version: int, *, where: Path) -> dict[str, Any]:
    """Check the bytes of a manifest; ``where`` they came from stands in the error.

    Raises:
        VersionDamaged, NewerRelease: as ``read_manifest``.
    """
    try:
        document = json.loads(data)
        whole = isinstance(document, dict) and encode_manifest(document) == data
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise VersionDamaged(version=version, file=MANIFEST, reason="does not match its own sha256")
    manifest: dict[str, Any] = document
    if manifest.get("schema") != SCHEMA_VERSION:
        raise NewerRelease(path=str(where), schema=manifest.get("schema"), accepted=SCHEMA_VERSION)
    if manifest.get("version") != version:
        found = f"is of version {manifest.get('version')}"
        raise VersionDamaged(version=version, file=MANIFEST, reason=found)
    return manifest


def read_file(folder: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Read one file of a version and check it against the manifest.

    Raises:
        VersionPruned: there is no such directory any more.
        VersionDamaged: the file is missing or other than the manifest says.
        OSError: it could not be read just now.
    """
    data = _read_bytes(folder, manifest["version"], name)
    return check_file(data, manifest, name)


def check_file(data: bytes, manifest: Mapping[str, Any], name: str) -> bytes:
    """Check the bytes of one file of a version against its manifest; return them.

    Raises:
        VersionDamaged: they are other than the manifest says.
    """
    version: int = manifest["version"]
    expected = manifest["files"].get(name)
    if expected is None:
        raise VersionDamaged(version=version, file=MANIFEST, reason=f"does not list {name}")
    if len(data) != expected["bytes"]:
        reason = f"has {len(data)} bytes, expected {expected['bytes']}"
        raise VersionDamaged(version=version, file=name, reason=reason)
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected["sha256"]:
        reason = f"has sha256 {digest}, expected {expected['sha256']}"
        raise VersionDamaged(version=version, file=name, reason=reason)
    return data


def describe(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The manifest's ``files``: sha256 and size of each."""
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
    }


def encode_model(
    weights: Arrays, normalizer: RunningStatistics, metadata: dict[str, str] | None = None
) -> bytes:
    """``model.safetensors``: float32 weights; a float64 normalizer (float32 stops counting at 2^24)."""
    arrays = {name: plain_array(array, np.float32) for name, array in weights.items()}
    arrays["normalizer.count"] = np.array([normalizer.count], np.float64)
    arrays["normalizer.mean"] = plain_array(normalizer.mean, np.float64)
    arrays["normalizer.m2"] = plain_array(normalizer.m2, np.float64)
    return save(arrays, metadata)


def encode_arrays(arrays: Arrays) -> bytes:
    """Named arrays as safetensors, each in its own dtype."""
    return save({name: plain_array(array, array.dtype) for name, array in arrays.items()})


def plain_array(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A C-ordered, read-only copy that keeps shape []."""
    copy = np.array(array, dtype=dtype, order="C", copy=True)
    copy.setflags(write=False)
    return copy


def parse_arrays(data: bytes, version: int, name: str) -> dict[str, NDArray[Any]]:
    """Read named arrays, read-only, from bytes whose hash was checked."""
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise VersionDamaged(version=version, file=name, reason=str(error)) from error
    for array in arrays.values():
        array.setflags(write=False)
    return dict(arrays)


def parse_model(
    data: bytes,
    spec: PolicySpec,
    version: int,
    *,
    name: str = MODEL,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Arrays, RunningStatistics]:
    """Read what ``encode_model`` wrote, from bytes whose hash was checked.

    Args:
        data: the file.
        spec: the version's.
        version: its number, for the error.
        name: the file's name, for the error.
        shapes: of the weights that must be there; None: all of ``spec.shapes()``.
    """
    arrays = parse_arrays(data, version, name)
    found = {key: (array.shape, array.dtype.name) for key, array in arrays.items()}
    expected = {key: (shape, "float32") for key, shape in (shapes or spec.shapes()).items()}
    statistics = {"count": (1,), "mean": (spec.statistics,), "m2": (spec.statistics,)}
    expected |= {f"normalizer.{key}": (statistics[key], "float64") for key in _STATISTICS}
    if found != expected:
        wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        reason = f"{wrong[0]} is {found.get(wrong[0])}, expected {expected.get(wrong[0])}"
        raise VersionDamaged(version=version, file=name, reason=reason)
    count, mean, m2 = (arrays.pop(f"normalizer.{key}") for key in _STATISTICS)
    return arrays, RunningStatistics(count=float(count[0]), mean=mean, m2=m2)


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _read_bytes(folder: Path, version: int, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        if error.errno not in BROKEN:
            raise
        if not folder.is_dir():
            raise VersionPruned(version=version) from error
        raise VersionDamaged(version=version, file=name, reason=str(error.strerror)) from error


def _read_spec(manifest: Mapping[str, Any], version: int) -> PolicySpec:
    try:
        return PolicySpec.from_json(manifest["spec"])
    except (KeyError, ValueError, TypeError) as error:
        reason = f"spec cannot be read: {error!r}"
        raise VersionDamaged(version=version, file=MANIFEST, reason=reason) from error
