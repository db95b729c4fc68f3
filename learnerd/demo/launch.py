"""Becomes another program that the kernel ends when the parent dies, however the parent dies.

    python launch.py PARENT_PID PROGRAM ARGUMENT…

Run as a file, so that it imports nothing; setting this between fork and exec is not safe where threads run.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Ask for SIGTERM at the parent's death, then replace this program."""
    parent_pid, program, *arguments = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent_pid):  # it died before the kernel was asked
        sys.exit(1)
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
