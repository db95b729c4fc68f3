"""Access: who may look. The host is checked against DNS rebinding, a token against strangers."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path

COOKIE = "learnerd"
COOKIE_AGE_S = 30 * 86_400
MIN_CHARACTERS = 16


class Access:
    """Judges requests.

    Args:
        token: what has to be shown; None: nothing.
        names: host names under which the dashboard may be asked for, besides localhost and plain addresses.
    """

    def __init__(self, *, token: str | None = None, names: Iterable[str] = ()) -> None:
        self._token = None if token is None else token.encode()
        self._names = {"localhost", *(name.lower() for name in names)}

    @property
    def needs_token(self) -> bool:
        """Whether a token has to be shown."""
        return self._token is not None

    def knows_host(self, header: str | None) -> bool:
        """Whether a ``Host`` header names this place: a page of somebody else's cannot choose an address."""
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", header or "")
        if found is None:
            return False
        host = found[1].strip("[]").lower()
        return host in self._names or _is_address(host)

    def admits(self, *, authorization: str, cookie: str) -> bool:
        """Whether these headers carry the token, or the cookie that it was exchanged for."""
        if self._token is None:
            return True
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() == "bearer" and self.is_token(shown.strip()):
            return True
        return _same(_cookie_of(cookie), self._cookie())

    def is_token(self, shown: str) -> bool:
        """Whether this is the token; takes as long for a wrong one."""
        return self._token is not None and _same(shown, self._token)

    def cookie_header(self) -> str:
        """What to set after a login: no script sees it, no other site's request carries it."""
        value = self._cookie().decode()
        return f"{COOKIE}={value}; Path=/; Max-Age={COOKIE_AGE_S}; HttpOnly; SameSite=Strict"

    def _cookie(self) -> bytes:
        """Follows from the token, so that a new token ends all logins; does not tell it."""
        assert self._token is not None
        return hmac.new(self._token, b"learnerd dashboard", hashlib.sha256).hexdigest().encode()


def read_token(path: Path | None) -> str | None:
    """The token in a file; None when there is no file to read.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no usable token; the text does not quote it.
    """
    if path is None:
        return None
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < MIN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{path} must hold one token of {MIN_CHARACTERS} or more printable characters")
    return token


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _cookie_of(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(shown: str, expected: bytes) -> bool:
    return hmac.compare_digest(shown.encode(errors="replace"), expected)
