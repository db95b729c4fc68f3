"""Notifications to the service manager: the sd_notify protocol, without libsystemd.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

SEND_TIMEOUT_S = 1.0
"""A manager that does not read for so long must not stop the learner."""


@dataclass(frozen=True, kw_only=True)
class Notifier:
    """Sends notifications to ``address``; does nothing when it is empty. Never raises.

    Attributes:
        address: a socket's path, or "@name" in the abstract namespace; "" without a service manager.
        watchdog_s: the interval within which the manager wants a beat; None when it wants none.
    """

    address: str = ""
    watchdog_s: float | None = None

    @classmethod
    def from_environment(cls, env: Mapping[str, str], *, pid: int | None = None) -> "Notifier":
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say; ``pid`` is this process by default."""
        microseconds = env.get("WATCHDOG_USEC", "")
        ours = env.get("WATCHDOG_PID", "") in ("", str(pid or os.getpid()))
        wanted = ours and microseconds.isdecimal() and int(microseconds) > 0
        return cls(
            address=env.get("NOTIFY_SOCKET", ""),
            watchdog_s=int(microseconds) / 1e6 if wanted else None,
        )

    def ready(self, status: str = "") -> bool:
        """The service is up (again, after ``reloading``)."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """A beat: call it from the progress of the work, not from a timer."""
        return self._send("WATCHDOG=1")

    def reloading(self, *, monotonic_us: int | None = None) -> bool:
        """The configuration is being read again; ``ready`` must follow."""
        now_us = time.monotonic_ns() // 1000 if monotonic_us is None else monotonic_us
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def extend_timeout(self, seconds: float, status: str = "") -> bool:
        """Starting, reloading or stopping takes longer: the manager is to wait ``seconds`` from now on."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", *_status(status))

    def stopping(self, status: str = "") -> bool:
        """The service is on its way down."""
        return self._send("STOPPING=1", *_status(status))

    def _send(self, *lines: str) -> bool:
        """True when the manager's socket took the message."""
        if not self.address.startswith(("/", "@")):
            return False
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(SEND_TIMEOUT_S)
                channel.connect(address)
                channel.sendall("\n".join(lines).encode("utf-8", "replace"))
        except OSError:
            return False
        return True


def _status(text: str) -> list[str]:
    """A line end would start another assignment."""
    return [f"STATUS={' '.join(text.split())}"] if text else []
