"""Transfer (torch): many arrays to a device in one move."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNED_BYTES = 64  # every array begins where any type may begin


def to_device(arrays: Mapping[str, NDArray[Any]], device: str) -> dict[str, Tensor]:
    """Copy arrays to a device; to a GPU all of them at once, from memory that it reads by itself.

    A move costs microseconds before its first byte, and one from pageable memory makes the host wait.

    Args:
        arrays: by name; of any shapes and types. On a CPU, one that can be written to is used as it is.
        device: "cpu" or "cuda".
    """
    if device == "cpu":
        return {name: torch.from_numpy(_writable(array)) for name, array in arrays.items()}
    return unpacked(packed(arrays, pin=True).to(device, non_blocking=True), arrays)


def packed(arrays: Mapping[str, NDArray[Any]], *, pin: bool = False) -> Tensor:
    """Lay arrays end to end, each at a multiple of ALIGNED_BYTES: uint8 [bytes]."""
    memory = torch.zeros(sum(_taken(array) for array in arrays.values()), dtype=torch.uint8, pin_memory=pin)
    whole, start = memory.numpy(), 0
    for array in arrays.values():
        whole[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start += _taken(array)
    return memory


def unpacked(memory: Tensor, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Views of what ``packed`` laid out, with the names, shapes and types of ``arrays``."""
    tensors, start = {}, 0
    for name, array in arrays.items():
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        tensors[name] = memory[start : start + array.nbytes].view(dtype).view(array.shape)
        start += _taken(array)
    return tensors


def _taken(array: NDArray[Any]) -> int:
    return -(-array.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.flags.writeable else array.copy()
