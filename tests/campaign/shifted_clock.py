"""A wall clock that can be stepped, for processes that preload the shim of ``shifted_clock.c``."""

import mmap
import shutil
import struct
import subprocess
import time
from pathlib import Path


class Shift:
    """The offset of a wall clock, in a file that the processes which it is shifted for have mapped."""

    def __init__(self, folder):
        self.path = folder / "offset"
        self.path.write_bytes(struct.pack("q", 0))
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    @property
    def seconds(self):
        return struct.unpack("q", self._map[:8])[0] / 1e9

    def step(self, seconds):
        self._map[:8] = struct.pack("q", int((self.seconds + seconds) * 1e9))

    def now(self):
        """What their wall clock says."""
        return time.time() + self.seconds

    def environment(self, library):
        """Variables of a process that is to live by this clock."""
        return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self.path)}


def build_shim(folder):
    """Compile the shim; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return library
