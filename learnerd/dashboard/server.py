"""Server: the standard library's, held to a few requests at a time, to GET and HEAD, and to known hosts."""

import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from learnerd.dashboard.access import Access
from learnerd.dashboard.page import LOGIN, PAGE, PLAIN, Page
from learnerd.dashboard.views import Views

MAX_REQUESTS = 16
TIMEOUT_S = 10.0
WRONG_TOKEN_PAUSE_S = 1.0
MAX_FORM_BYTES = 4096


class DashboardServer(ThreadingHTTPServer):
    """Listens once it is made.

    Args:
        address: IP address and port; port 0: any.
        views: the documents.
        access: who may see them.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], *, views: Views, access: Access) -> None:
        self.views, self.access = views, access
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    def server_bind(self) -> None:
        """Bind, without the base class's look-up of our own name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "learnerd", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a request, or hang up when too many are under way."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hung up needs no traceback; a fault of ours does."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: DashboardServer
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        if self._is_welcome():
            self._answer()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """The login form, and nothing else."""
        if not self._knows_host():
            return
        if not self.server.access.needs_token or urlsplit(self.path).path != "/login":
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, PLAIN, b"GET and HEAD are accepted\n")
            return
        if self.server.access.is_token(self._form_token()):
            headers = {"Location": "/", "Set-Cookie": self.server.access.cookie_header()}
            self._send(HTTPStatus.SEE_OTHER, PLAIN, b"", headers)
        else:
            time.sleep(WRONG_TOKEN_PAUSE_S)
            self._send_page(HTTPStatus.UNAUTHORIZED, LOGIN)

    def _answer(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/":
            self._send_page(HTTPStatus.OK, PAGE)
            return
        found = self.server.views.find(url.path, parse_qs(url.query, max_num_fields=8))
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, PLAIN, b"not found\n")
        else:
            self._send(HTTPStatus.OK, *found)

    def _is_welcome(self) -> bool:
        if not self._knows_host():
            return False
        authorization, cookie = self.headers.get("Authorization", ""), self.headers.get("Cookie", "")
        if self.server.access.admits(authorization=authorization, cookie=cookie):
            return True
        if authorization:
            time.sleep(WRONG_TOKEN_PAUSE_S)
        if urlsplit(self.path).path == "/":
            self._send_page(HTTPStatus.UNAUTHORIZED, LOGIN)
        else:
            headers = {"WWW-Authenticate": 'Bearer realm="learnerd"'}
            self._send(HTTPStatus.UNAUTHORIZED, PLAIN, b"a token is needed\n", headers)
        return False

    def _knows_host(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) == 1 and self.server.access.knows_host(hosts[0]):
            return True
        text = b"this host name is not known here; [telemetry] http_names lists further ones\n"
        self._send(HTTPStatus.MISDIRECTED_REQUEST, PLAIN, text)
        return False

    def _form_token(self) -> str:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_FORM_BYTES:
            return ""
        form = parse_qs(self.rfile.read(int(length)).decode(errors="replace"), max_num_fields=8)
        return form.get("token", [""])[-1]

    def _send_page(self, status: HTTPStatus, page: Page) -> None:
        self._send(status, page.kind, page.body, {"Content-Security-Policy": page.policy})

    def _send(
        self, status: HTTPStatus, kind: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        safe = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in (safe | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Nobody's business."""
        return "learnerd"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: requests may carry tokens, and a page that polls would fill the log."""
