"""Deltas: checked before they touch the store, and kept in ``delta.safetensors`` for replay."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.checkpoint import Arrays, Average, Checkpoint, Delta
from policies.errors import BadDelta
from policies.manifest import DELTA, encode_arrays, parse_arrays, read_file, read_manifest
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

PER_WEIGHT = ("adam_m", "adam_v", "prox")


def check_delta(delta: Delta, base: Checkpoint) -> None:
    """Check names, shapes, ranges and finiteness against the base.

    Raises:
        BadDelta: naming the field, what was found and what would be accepted.
    """
    shapes = base.spec.shapes()
    for name, array in delta.weights.items():
        _check_array(f"weights[{name!r}]", array, shapes.get(name))
    for name, average in delta.averages.items():
        _check_average(name, average, shapes)
    if delta.observed is not None:
        _check_observed(delta.observed, base.spec)
    for name, count in delta.counters.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise BadDelta(field=f"counters[{name!r}]", value=repr(count), accepted="an integer >= 0")
    if "episodes" in delta.counters:
        found = delta.counters["episodes"]
        raise BadDelta(field="counters['episodes']", value=found, accepted="nothing: publish counts them")


def encode_delta(delta: Delta) -> bytes:
    """``delta.safetensors``: everything but the counters, which stand in the manifest."""
    arrays: dict[str, NDArray[Any]] = {f"weight.{name}": array for name, array in delta.weights.items()}
    for name, average in delta.averages.items():
        arrays[f"average.{name}"] = np.asarray(average.value)
        arrays[f"retained.{name}"] = np.array(average.retained, np.float64)
    if delta.observed is not None:
        arrays["observed.count"] = np.array(delta.observed.count, np.float64)
        arrays["observed.mean"] = delta.observed.mean
        arrays["observed.m2"] = delta.observed.m2
    return encode_arrays(arrays)


def read_delta(folder: Path, version: int) -> Delta | None:
    """The delta that made a version; None where it was not kept, as its parent and itself tell it.

    Raises:
        VersionPruned, VersionDamaged, OSError: as ``read_manifest`` and ``read_file``.
    """
    manifest = read_manifest(folder, version)
    if DELTA not in manifest["files"]:
        return None
    return decode_delta(read_file(folder, manifest, DELTA), manifest)


def decode_delta(data: bytes, manifest: Mapping[str, Any]) -> Delta:
    """Read back what ``encode_delta`` wrote, from bytes whose hash was checked, and the counters.

    Raises:
        VersionDamaged: they cannot be read.
    """
    arrays = parse_arrays(data, manifest["version"], DELTA)
    retained = _strip(arrays, "retained.")
    observed = _strip(arrays, "observed.")
    return Delta(
        weights=_strip(arrays, "weight."),
        averages={
            name: Average(value=value, retained=float(retained[name]))
            for name, value in _strip(arrays, "average.").items()
        },
        observed=RunningStatistics(count=float(observed["count"]), mean=observed["mean"], m2=observed["m2"])
        if observed
        else None,
        counters=dict(manifest["delta_counters"]),
    )


def _strip(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _check_array(field: str, array: NDArray[Any], shape: tuple[int, ...] | None) -> None:
    if shape is None:
        raise BadDelta(field=field, value="given", accepted="the names of the spec's weights")
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind != "f" or array.shape != shape:
        found = f"{getattr(array, 'dtype', type(array).__name__)}{list(np.shape(array))}"
        raise BadDelta(field=field, value=found, accepted=f"floating-point numbers of shape {list(shape)}")
    if not np.isfinite(array).all():
        raise BadDelta(field=field, value="not finite", accepted="finite numbers")


def _check_average(name: str, average: Average, shapes: Mapping[str, tuple[int, ...]]) -> None:
    field = f"averages[{name!r}]"
    kind, _, weight = name.partition(".")
    _check_array(field, average.value, shapes.get(weight) if kind in PER_WEIGHT else ())
    if not 0.0 <= average.retained <= 1.0:
        raise BadDelta(field=f"{field}.retained", value=average.retained, accepted="a number from 0 to 1")
    if kind == "adam_v" and (average.value < 0).any():
        raise BadDelta(field=field, value=float(average.value.min()), accepted="numbers >= 0")
    if name in ("popart_std", "prox_weight") and not average.value > 0:
        raise BadDelta(field=field, value=float(average.value), accepted="a number > 0")


def _check_observed(observed: RunningStatistics, spec: PolicySpec) -> None:
    _check_array("observed.mean", observed.mean, (spec.statistics,))
    _check_array("observed.m2", observed.m2, (spec.statistics,))
    if not 0.0 <= observed.count < float("inf"):
        raise BadDelta(field="observed.count", value=observed.count, accepted="a finite number >= 0")
    if (observed.m2 < 0).any():
        raise BadDelta(field="observed.m2", value=float(observed.m2.min()), accepted="numbers >= 0")
