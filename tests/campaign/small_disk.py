"""A small disk that can be filled up; it takes the right to mount, or a user namespace that gives it."""

import contextlib
import os
import shutil
import subprocess

TMPFS = "size=48m,nr_inodes=24k"


class Disk:
    """A small file system of its own, which can be filled up.

    Args:
        folder: made; the file system lies on it.
        options: of mount(8).
    """

    def __init__(self, folder, options=TMPFS):
        self.folder = folder
        folder.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True
        )

    def fill(self, *, inodes, leave):
        """Leave room for ``leave`` blocks of 4 KiB, or for as many inodes."""
        if inodes:
            self._fill_inodes(leave)
        else:
            free = os.statvfs(self.folder)
            size = (free.f_bavail - leave) * free.f_frsize
            if size > 0:
                with (self.folder / "ballast").open("wb") as file, contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, size)

    def _fill_inodes(self, leave):
        ballast = self.folder / "ballast.d"
        ballast.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            for number in range(max(0, os.statvfs(self.folder).f_ffree - leave)):
                (ballast / str(number)).touch()

    def empty(self):
        (self.folder / "ballast").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "ballast.d", ignore_errors=True)

    def close(self):
        subprocess.run(["umount", "-l", self.folder], check=False, capture_output=True)
