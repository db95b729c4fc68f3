"""Exports: a published version in a file for clients that do not compute it themselves. Loads nothing heavy.

A format is one module, ``learnerd.export.formats.<name>`` with a function ``encode``, and one line in
``FORMATS``. A kind of network that an ONNX graph can hold is one module, ``learnerd.export.graphs.<name>``,
and one line in ``learnerd.export.graphs``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Format:
    """What is known of a format before its module is loaded.

    Attributes:
        name: of its module, and in ``[export] formats``.
        file: what its file is called in ``state/exports/<8 digits>``.
        lossy: whether it never holds exactly what was published.
        packages: what it imports beside our own dependencies; the extra ``onnx`` brings them.
    """

    name: str
    file: str
    lossy: bool = False
    packages: tuple[str, ...] = ()


ONNX_PACKAGES = ("onnx", "onnxruntime")

FORMATS = {
    one.name: one
    for one in (
        Format(name="onnx", file="policy.onnx", packages=ONNX_PACKAGES),
        Format(name="onnx_int8", file="policy.int8.onnx", lossy=True, packages=ONNX_PACKAGES),
        Format(name="safetensors", file="policy.safetensors"),
        Format(name="npz", file="policy.npz"),
    )
}
EXACT = tuple(name for name, one in FORMATS.items() if not one.lossy)
