import os
import socket
import time

import pytest

from learnerd.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket and the value of NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@learnerd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name[1:] if name.startswith("@") else name)
        server.settimeout(5)
        yield server, name


def test_messages_are_those_of_the_protocol(manager):
    server, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    calls = {
        "READY=1\nSTATUS=version 3": lambda: notifier.ready("version 3"),
        "READY=1": notifier.ready,
        "STATUS=learning": lambda: notifier.status("learning"),
        "WATCHDOG=1": notifier.watchdog,
        "RELOADING=1\nMONOTONIC_USEC=123": lambda: notifier.reloading(monotonic_us=123),
        "STOPPING=1\nSTATUS=draining": lambda: notifier.stopping("draining"),
    }
    for expected, call in calls.items():
        assert call()
        assert server.recv(4096).decode() == expected


def test_reloading_carries_the_monotonic_clock(manager):
    server, name = manager
    before = time.monotonic_ns() // 1000
    assert Notifier(address=name).reloading()
    sent = int(server.recv(4096).decode().partition("MONOTONIC_USEC=")[2])
    assert before <= sent <= time.monotonic_ns() // 1000


def test_a_status_cannot_smuggle_assignments(manager):
    server, name = manager
    assert Notifier(address=name).status("bad file a\nREADY=1\udcff")
    assert server.recv(4096).decode() == "STATUS=bad file a READY=1?"


def test_without_a_manager_nothing_happens():
    notifier = Notifier.from_environment({})
    assert notifier.watchdog_s is None
    assert not notifier.ready()


@pytest.mark.parametrize(
    "address", ["/nowhere/at/all", "@learnerd-nobody-listens", "relative", "/" + "x" * 200]
)
def test_a_manager_that_is_gone_is_no_error(address):
    assert not Notifier(address=address).ready()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(env, expected):
    assert Notifier.from_environment(env, pid=77).watchdog_s == expected


def test_a_manager_that_does_not_read_delays_only_briefly(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        notifier = Notifier(address=str(tmp_path / "notify"))
        start = time.monotonic()
        while notifier.watchdog():
            assert time.monotonic() - start < 10
        assert time.monotonic() - start < 10
