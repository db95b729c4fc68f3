"""The extra ``onnx``: whether what a format needs is installed. Loads nothing of it."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

from learnerd.errors import ConfigError, ConfigProblem
from learnerd.export import FORMATS


def missing_packages(names: Iterable[str]) -> list[str]:
    """What formats import and is not installed."""
    needed = sorted({package for name in names for package in FORMATS[name].packages})
    return [package for package in needed if importlib.util.find_spec(package) is None]


def require_packages(names: tuple[str, ...], source: Path | None) -> None:
    """Say at once that the extra is missing, not in the middle of a night.

    Args:
        names: ``[export] formats``.
        source: the configuration's file.

    Raises:
        ConfigError: naming the extra.
    """
    missing = missing_packages(names)
    if missing:
        raise ConfigError(
            [
                ConfigProblem(
                    source=str(source or "config"),
                    table="export",
                    key="formats",
                    value=f"{json.dumps(names)}, but {' and '.join(missing)} is not installed",
                    accepted="safetensors, npz, or ONNX with the extra",
                    hint="pip install 'learnerd[onnx]'",
                )
            ]
        )
