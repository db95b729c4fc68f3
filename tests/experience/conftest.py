import contextlib
import os

import pytest

MUTATIONS = ("open", "write", "fsync", "ftruncate", "mkdir", "rename", "replace", "unlink", "rmdir")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the code under test may handle it as an error."""


class Kill:
    """Lets the first ``k`` calls into ``os`` through; then each raises, as a dead process makes none."""

    def __init__(self, k):
        self.k = k
        self.calls = []
        self.happened = False

    def patched(self, name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            if len(self.calls) >= self.k:
                raise Killed(name)
            self.calls.append(name)
            return real(*args, **kwargs)

        return call


@pytest.fixture
def killed_at():
    """Give a context manager in which the process dies at its k-th call into ``os``."""

    @contextlib.contextmanager
    def killing(k, names=MUTATIONS):
        kill = Kill(k)
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(os, name, kill.patched(name))
            try:
                yield kill
            except Killed:
                kill.happened = True

    return killing
