"""A process that has everything imported and forks daemons and online learners: a restart costs milliseconds.

It starts no Python thread itself; each child is a real daemon over real folders, and can be killed by its
process id like any other.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Zygote:
    """The driver's side: starts children, reaps them.

    Args:
        log: where their output goes.
    """

    def __init__(self, log: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env={**os.environ, **threads, "PYTHONPATH": path},
            )
        assert self._read() == "ready", log.read_text()

    def start(self, role, **options):
        """Fork a child in a role of ``roles.py``; its process id."""
        return int(self._ask("start", {"role": role, **options}))

    def poll(self, pid):
        """Its exit status, negative for a signal; None while it runs."""
        status = self._ask("poll", pid)
        return None if status == "None" else int(status)

    def wait(self, pid):
        """Its exit status, once it has ended."""
        return int(self._ask("wait", pid))

    def kill(self, pid):
        """SIGKILL it; whether that was what ended it."""
        return int(self._ask("kill", pid)) == -signal.SIGKILL

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, verb, what):
        self._process.stdin.write(json.dumps([verb, what]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        return self._process.stdout.readline().strip()


def _serve():
    import roles  # noqa: PLC0415 - only the zygote itself needs what it loads

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=replies, flush=True)
    ended = {}
    for line in iter(sys.stdin.readline, ""):
        verb, what = json.loads(line)
        print(_answer(verb, what, ended, roles, replies), file=replies, flush=True)


def _answer(verb, what, ended, roles, replies):
    if verb == "start":
        pid = os.fork()
        if pid == 0:
            replies.close()
            _become(roles, what)
        return pid
    if what not in ended:
        if verb == "kill":
            os.kill(what, signal.SIGKILL)  # not reaped yet: the number is still its own
        found, status = os.waitpid(what, os.WNOHANG if verb == "poll" else 0)
        if found:
            ended[what] = os.waitstatus_to_exitcode(status)
    return ended.get(what)


def _become(roles, options):
    """Never returns: what a child's end leaves to do is the operating system's."""
    code = 70
    try:
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        code = getattr(roles, options.pop("role"))(**options)
    except BaseException:  # noqa: BLE001 - printed, as an interpreter would before it ends
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


if __name__ == "__main__":
    _serve()
