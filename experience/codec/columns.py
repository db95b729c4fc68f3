"""Column: the values of one field, step by step, gathered into one array."""

from typing import Any

import numpy as np

from experience.codec.arrays import Array
from experience.errors import InputError, reject

_CHUNK_STEPS = 512
"""Parsed JSON takes four times the memory of the array; so it is converted in pieces."""


class Column:
    """Grows by one value a step; ``field`` names it in errors."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._waiting: list[Any] = []
        self._chunks: list[Array] = []
        self._n_flushed = 0

    def __len__(self) -> int:
        return self._n_flushed + len(self._waiting)

    def add(self, value: Any) -> None:
        """Append one step's value: a number or nested lists of numbers."""
        self._waiting.append(value)
        if len(self._waiting) == _CHUNK_STEPS:
            self._flush()

    def array(self) -> Array:
        """All values, [T, ...].

        Raises:
            InputError: values that are no numbers, or of different shapes.
        """
        if self._waiting:
            self._flush()
        try:
            return np.concatenate(self._chunks)
        except ValueError as error:
            shapes = [list(chunk.shape[1:]) for chunk in self._chunks]
            raise self._ragged(f"steps of shapes {shapes[0]} to {shapes[-1]}") from error

    def _flush(self) -> None:
        try:
            chunk = np.array(self._waiting)
        except (ValueError, OverflowError) as error:
            raise self._explain() from error
        if chunk.dtype.kind not in "biuf":
            raise self._explain()
        self._chunks.append(chunk)
        self._n_flushed += len(self._waiting)
        self._waiting.clear()

    def _explain(self) -> InputError:
        """Find the first value that is no number, or whose shape differs from the first one's."""
        shape: tuple[int, ...] | None = None
        for step, value in enumerate(self._waiting, self._n_flushed):
            field = f"{self._field}[{step}]"
            try:
                array = np.array(value)
            except (ValueError, OverflowError):
                return reject("bad_shape", field, value, "lists of one length at each level")
            if array.dtype.kind not in "biuf":
                return reject("bad_dtype", field, value, "numbers, or lists of numbers")
            shape = array.shape if shape is None else shape
            if array.shape != shape:
                return reject(
                    "bad_shape", field, f"shape {list(array.shape)}", f"shape {list(shape)}, as before"
                )
        return self._ragged("mixed")

    def _ragged(self, found: str) -> InputError:
        return reject("bad_shape", self._field, found, "one shape for every step")
