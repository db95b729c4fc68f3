"""In hand: which job the decoder process works on, in memory that outlives it.

It works on several files in step, and may end on any of them: this tells which one ended it.
"""

import mmap
import os
import struct

NONE, SEVERAL = -1, -2
_NUMBER = struct.Struct("<q")


class InHand:
    """The number as the decoder process writes it: without a system call.

    Args:
        descriptor: of an ``InHandFile``; None: nobody reads it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, _NUMBER.size)

    def note(self, job: int) -> None:
        """Say that ``job`` is worked on from now on."""
        _NUMBER.pack_into(self._memory, 0, job)


class InHandFile:
    """The number as its parent reads it, in a file without a name; the child may cut it, to no harm."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("in-hand")
        self.clear()

    def clear(self) -> None:
        """Forget what was noted; only while the child has nothing to do."""
        os.pwrite(self.descriptor, _NUMBER.pack(NONE), 0)

    def read(self) -> int:
        """Return what was noted last: NONE, or any number should the child write nonsense."""
        data = os.pread(self.descriptor, _NUMBER.size, 0)
        return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else NONE

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)
