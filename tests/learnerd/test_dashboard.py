"""The dashboard's server, without a daemon and without a browser."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

import learnerd
from learnerd.config import Config
from learnerd.config_tables import History as Keep
from learnerd.dashboard import server as server_module
from learnerd.dashboard.access import COOKIE, Access, read_token
from learnerd.dashboard.metrics import METRICS, prometheus
from learnerd.dashboard.page import PAGE, web_text
from learnerd.dashboard.server import MAX_REQUESTS, DashboardServer
from learnerd.dashboard.views import Views
from learnerd.history import History
from learnerd.status_file import live_document, new_document, write_status

TOKEN = "correct-horse-battery"
EVIL = '<script>alert("x")</script>\n\\'
DOCS = Path(learnerd.__file__).parent / "docs" / "operations.md"


@pytest.fixture
def config(tmp_path):
    for name in ("spool/in", "spool/claimed/daemon", "state"):
        (tmp_path / name).mkdir(parents=True)
    return Config.model_validate({"paths": {"spool": tmp_path / "spool", "state": tmp_path / "state"}})


@pytest.fixture
def serve(config):
    """A server with some access rules; a function that asks it."""
    servers = []

    def start(**access):
        server = DashboardServer(("127.0.0.1", 0), views=Views(config), access=Access(**access))
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

        def ask(path="/", *, method="GET", body=None, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            return response, text

        ask.port = server.server_address[1]
        return ask

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pauses(monkeypatch):
    """No pause after a wrong token, but a note of it."""
    found = []
    monkeypatch.setattr(server_module.time, "sleep", found.append)
    return found


def test_every_document_is_there(serve, config):
    write_status(config.paths.state, new_document(daemon={"state": "stopped"}, policy={"version": 3}))
    history = History(config.paths.state, Keep())
    history.write([{"at": time.time(), "version": 3, "cycles": 1, "episodes": 1, "loss": 0.123456789}])
    history.close()
    ask = serve()
    assert json.loads(ask("/status.json")[1])["policy"]["version"] == 3
    found = json.loads(ask("/history.json?range=1h")[1])
    assert (found["columns"]["loss"], found["problem"]) == ([0.123457], "")
    assert json.loads(ask("/versions.json")[1]) == []
    assert "learnerd_policy_version 3\n" in ask("/metrics")[1]
    for path in ("/", "/status.json", "/history.json", "/versions.json", "/metrics"):
        response, text = ask(path)
        assert response.status == 200
        head, nothing = ask(path, method="HEAD")
        assert (head.status, nothing, head.headers["Content-Length"]) == (200, "", str(len(text.encode())))


@pytest.mark.parametrize(
    "path", ["/x", "/../config.toml", "/status.json/", "/history.json?range=1y", "/%2e%2e/state"]
)
def test_nothing_else_is_there(serve, path):
    assert serve()(path)[0].status == 404


@pytest.mark.parametrize(
    ("method", "status"), [("POST", 405), ("PUT", 501), ("DELETE", 501), ("OPTIONS", 501), ("TRACE", 501)]
)
def test_only_get_and_head_are_accepted(serve, method, status):
    assert serve()("/status.json", method=method)[0].status == status


def test_a_damaged_history_is_said_not_thrown(serve, config):
    (config.paths.state / "history.sqlite").write_bytes(b"damaged" * 999)
    response, text = serve()("/history.json")
    assert response.status == 200
    assert "cannot be read" in json.loads(text)["problem"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8642", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("[::1]:80", 200),
        ("192.168.0.7:1", 200),
        ("box.lan", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("user@localhost", 421),
        ("", 421),
    ],
)
def test_a_page_of_another_name_is_refused(serve, host, status):
    assert serve(names=["box.lan"])("/status.json", Host=host)[0].status == status


def test_two_hosts_or_none_are_refused(serve):
    for lines in ("Host: localhost\r\nHost: evil.example\r\n", ""):
        with socket.create_connection(("127.0.0.1", serve().port), timeout=30) as connection:
            connection.sendall(f"GET /status.json HTTP/1.1\r\n{lines}\r\n".encode())
            assert b" 421 " in connection.recv(100)


def test_without_the_token_there_is_the_form_and_nothing_else(serve, pauses):
    ask = serve(token=TOKEN)
    response, text = ask("/")
    assert response.status == 401
    assert '<form class="card" method="post" action="/login">' in text
    for path in ("/status.json", "/metrics", "/history.json", "/x", f"/status.json?token={TOKEN}"):
        response, text = ask(path)
        assert (response.status, text) == (401, "a token is needed\n")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="learnerd"'
    wrong = ("Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}")
    for authorization in wrong:
        assert ask("/metrics", Authorization=authorization)[0].status == 401
    assert len(pauses) == len(wrong)
    for scheme in ("Bearer", "bearer"):
        assert ask("/metrics", Authorization=f"{scheme} {TOKEN}")[0].status == 200


def test_the_form_gives_a_cookie_that_does_not_tell_the_token(serve, pauses):
    ask = serve(token=TOKEN)
    response, _ = ask("/login", method="POST", body=f"token={quote(TOKEN)}")
    assert (response.status, response.headers["Location"]) == (303, "/")
    cookie = response.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    value = cookie.split(";")[0]
    assert ask("/status.json", Cookie=f"other=1; {value}")[0].status == 200
    assert serve(token=TOKEN + "2")("/status.json", Cookie=value)[0].status == 401
    for wrong in (f"{COOKIE}=", f"{COOKIE}={TOKEN}", f"{value}0", "=", '"'):
        assert ask("/status.json", Cookie=wrong)[0].status == 401
    for body in ("", "token=", "token=wrong", f"x={TOKEN}", "token=%ff"):
        assert ask("/login", method="POST", body=body)[0].status == 401
    assert ask("/login", method="POST", body="token=" + "x" * 10_000)[0].status == 401
    assert len(pauses) == 6
    assert ask("/status.json", method="POST", body=f"token={TOKEN}")[0].status == 405
    assert ask("/login", method="POST", body=f"token={TOKEN}", Host="evil.example")[0].status == 421


@pytest.mark.parametrize(
    "text", ["", "short", "fifteen-letters", "a token with spaces", "pässword-of-sixteen"]
)
def test_a_token_that_is_none(tmp_path, text):
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="16 or more") as caught:
        read_token(tmp_path / "token")
    assert not text or text not in str(caught.value)


def test_a_token_in_a_file(tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert read_token(tmp_path / "token") == TOKEN
    assert read_token(None) is None


def test_the_page_is_held_to_itself(serve):
    response, text = serve()("/")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert not re.findall(r"(?:src|href)=\"(?!data:,|/)", text)
    assert "//" not in re.sub(r"//.*|http://www.w3.org/2000/svg", "", web_text("dashboard.js"))
    assert "innerHTML" not in text
    assert not re.search(r"\son[a-z]+=| style=", text)
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cache-Control"):
        assert name in response.headers
    assert PAGE.body.count(b"</script>") == 1
    assert response.headers["Server"] == "learnerd"


def test_slow_and_many_clients_do_not_add_up(serve):
    ask = serve()
    idle = threading.active_count()
    held = [socket.create_connection(("127.0.0.1", ask.port), timeout=30) for _ in range(MAX_REQUESTS)]
    for connection in held:
        connection.sendall(b"GET / HTTP/1.1\r\n")
    with socket.create_connection(("127.0.0.1", ask.port), timeout=30) as one_more:
        assert one_more.recv(10) == b""
    assert threading.active_count() <= idle + MAX_REQUESTS
    for connection in held:
        connection.close()
    until, answered = time.monotonic() + 30, False
    while not answered:
        assert time.monotonic() < until
        with contextlib.suppress(OSError, http.client.HTTPException):
            answered = ask("/status.json")[0].status == 200


LINE = re.compile(
    r'(learnerd_[a-z0-9_]+)(\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="[^"]*")*\})? -?[0-9.e+-]+'
)


def hold(why, since):
    return {"why": why, "message": EVIL, "since": since, "until": None}


def test_metrics_are_what_prometheus_reads(config):
    document = new_document(
        daemon={"state": "running", "uptime_s": 5.0, "holds": [hold("paused", 70.0), hold("quiet", None)]},
        episodes={"learned": 7, "refused": {"too_old": 2, EVIL: 1}, "pending": 3},
        learning={"return_mean_100": -1.5, "kl": 1e-9, "logp": {"logged": 7}},
        alarms=[{"id": EVIL, "since": 90.0, "message": "m", "remedy": "r"}],
    )
    document["process"] = {"written_at": 1.0, "silent_s": 2.0}
    text = prometheus(document, now=100.0).decode()
    families = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in families
            families[name] = kind
        elif not line.startswith("# HELP "):
            found = LINE.fullmatch(line)
            assert found, line
            assert found[1] in families
    assert families["learnerd_episodes_learned_total"] == "counter"
    assert families["learnerd_return_mean"] == "gauge"
    assert 'learnerd_episodes_refused_total{reason="too_old"} 2' in text
    assert "learnerd_files_pending 3" in text
    assert 'level="alarm"} 10.0' in text
    assert 'learnerd_held_seconds{why="paused"} 30.0' in text
    assert 'learnerd_held_seconds{why="quiet"} 0.0' in text
    assert "learnerd_loss" not in families  # unknown
    assert text.endswith("\n")


def test_metrics_name_what_the_document_has():
    document = new_document()
    for name, place, _ in METRICS:
        section, _, key = place.partition(".")
        assert key in document[section], name


def test_every_metric_is_documented(config):
    text = DOCS.read_text()
    document = live_document(config)
    names = {name for name, _, _ in METRICS}
    document["daemon"]["holds"] = [hold("paused", 0.0)]
    names |= set(re.findall(r"^learnerd_\w+", prometheus(document, 0.0).decode(), re.MULTILINE))
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_process_is_light():
    script = (
        "import sys, learnerd.dashboard.__main__;"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'rich') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
