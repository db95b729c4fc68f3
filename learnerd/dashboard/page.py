"""Page: the HTML that is served, put together from ``learnerd/web``; nothing is fetched from elsewhere."""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

PLAIN, HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
WEB = Path(__file__).parents[1] / "web"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page and the policy that the browser holds it to.

    Attributes:
        body: UTF-8.
        policy: its own style and script by their hashes, and requests to where it came from.
        kind: the media type.
    """

    body: bytes
    policy: str
    kind: str = HTML


def web_text(name: str) -> str:
    """A file of ``learnerd/web``."""
    return (WEB / name).read_text(encoding="utf-8")


def _build(name: str) -> Page:
    html = re.sub(r"\{\{([a-z.]+)\}\}", lambda found: web_text(found[1]), web_text(name))
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {_hashes(html, 'style')}; "
        f"script-src {_hashes(html, 'script')}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Page(body=html.encode(), policy=policy)


def _hashes(html: str, tag: str) -> str:
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


PAGE, LOGIN = _build("dashboard.html"), _build("login.html")
