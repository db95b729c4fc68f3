"""The processes themselves."""

import shutil
import signal
import socket
import subprocess

import pytest
from rehearsal.rehearsals import QUICK, SPACES, register

IMPATIENT = """
import learnerd.dashboard.process
learnerd.dashboard.process.RETRY_S = 0.3
"""


@register("dashboard_down")
def a_port_that_is_taken(site, drop):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        site.configure(SPACES + QUICK + f'[telemetry]\nhttp = "127.0.0.1:{port}"\n')
        site.start(patch=IMPATIENT)
        drop()
        yield
    yield


LIMIT = "/proc/sys/user/max_inotify_instances"
NAMESPACE = ["unshare", "--user", "--map-root-user"]
NO_INSTANCES = [*NAMESPACE, "sh", "-c", f'echo 0 > {LIMIT}; exec "$@"', "sh"]


@register("watch_failed", level="notice")
def no_inotify_instance_is_free(site, drop):
    """In a user namespace of the daemon's own, which has limits of its own."""
    if shutil.which("nsenter") is None or subprocess.run([*NO_INSTANCES, "true"], check=False).returncode:
        pytest.skip("no user namespace can be made here")
    site.configure(SPACES + QUICK)
    process = site.start(prefix=NO_INSTANCES)
    yield
    enter = ["nsenter", "--user", "--target", str(process.pid), "--preserve-credentials"]
    subprocess.run([*enter, "sh", "-c", f"echo 100 > {LIMIT}"], check=True)
    yield


@register("status_stale")
def a_daemon_that_hangs(site, drop):
    site.configure(SPACES + QUICK)
    process = site.start()
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
    yield
