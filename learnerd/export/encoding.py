"""Encoding: a version in one of the formats, or a reason why not."""

import importlib

import numpy as np
from numpy.typing import NDArray

from learnerd.errors import ExportError, LossyExportError
from learnerd.export.packages import missing_packages
from learnerd.export.source import Exported, Source


def encode(
    name: str, source: Source, observations: NDArray[np.float32] | None = None, *, lossy: bool
) -> Exported:
    """One version in the format ``name``.

    Args:
        name: a key of ``FORMATS``.
        source: the version.
        observations: [n, *observation_shape], on which an inexact format is compared with what was published;
            None: made up.
        lossy: whether it may differ from what was published.

    Raises:
        ExportError: this policy cannot be written in this format, or the extra is missing.
        LossyExportError: it would differ, and ``lossy`` is False.
    """
    if missing := missing_packages([name]):
        raise ExportError(f"{name} needs {' and '.join(missing)}; accepted: pip install 'learnerd[onnx]'")
    exported: Exported = importlib.import_module(f"learnerd.export.formats.{name}").encode(
        source, observations
    )
    if exported.loss and not lossy:
        raise LossyExportError(version=source.version, format_name=name, loss=exported.loss)
    return exported
