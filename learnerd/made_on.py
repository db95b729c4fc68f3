"""Made on: libraries, code, processor and device that a version is computed with; to note and to compare.

Two machines that agree in all of it compute the same bits; where one thing differs, results may differ in the
last digits. Looked up once a process.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import policies

CODE_DIGITS = 16
FLAGS = ("flags", "features")
"""Names of the instruction sets in ``/proc/cpuinfo``, on x86 and on Arm."""
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def libraries() -> dict[str, str]:
    """Versions of what computes, and ``code``: a digest of the sources of the package ``policies``."""
    return dict(_libraries())


def machine(device: str) -> dict[str, str]:
    """Return what of the machine decides about bits.

    Args:
        device: "cpu" or "cuda".

    Returns:
        ``cpu`` (its name), ``cpu_flags`` (a digest of its instruction sets), ``simd`` (what torch chose),
        ``blas`` and ``blas_threads`` of NumPy; with a GPU also ``device_name`` and ``cuda``.
    """
    return dict(_machine(device))


def differences(recorded: Mapping[str, Any], *, device: str, threads: int) -> list[str]:
    """Say what differs between here and where a version was learned, as its manifest's record tells.

    Args:
        recorded: the record.
        device: "cpu" or "cuda", on which it is computed now.
        threads: how many torch uses now.
    """
    now = {**libraries(), **machine(device), "device": device, "threads": threads}
    then = {
        **recorded.get("libraries", {}),
        **recorded.get("machine", {}),
        "device": recorded.get("device"),
        "threads": recorded.get("threads"),
    }
    found = [
        f"{name} was {then[name]}, is {now[name]}" for name in now if then.get(name, now[name]) != now[name]
    ]
    return found if "machine" in recorded else [*found, "the machine was not recorded"]


@functools.cache
def _libraries() -> tuple[tuple[str, str], ...]:
    return (
        ("python", platform.python_version()),
        ("numpy", np.__version__),
        ("torch", torch.__version__),
        ("safetensors", importlib.metadata.version("safetensors")),
        ("learnerd", _own_version()),
        ("code", _code_digest()),
    )


def _own_version() -> str:
    try:
        return importlib.metadata.version("learnerd")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


def _code_digest() -> str:
    digest = hashlib.sha256()
    folder = Path(policies.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:CODE_DIGITS]


@functools.cache
def _machine(device: str) -> tuple[tuple[str, str], ...]:
    cpu, flags = _processor()
    found = {
        "cpu": cpu,
        "cpu_flags": flags,
        "simd": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "blas_threads": next((os.environ[name] for name in BLAS_THREADS if name in os.environ), "all"),
    }
    if device == "cuda":
        found |= {"device_name": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return tuple(found.items())


def _processor() -> tuple[str, str]:
    """Its name, and a digest of its instruction sets; what is not known is "unknown"."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    first = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in text.split("\n\n")[0].splitlines())
        if colon
    }
    flags = next((first[name] for name in FLAGS if name in first), "")
    digest = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:CODE_DIGITS]
    return first.get("model name", platform.machine() or "unknown"), digest if flags else "unknown"


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
