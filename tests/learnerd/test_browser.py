"""The dashboard in a real Chromium, over a real daemon."""

import json
import threading
import time

import pytest
from browser import Browser, find_chromium

from learnerd.config import Config
from learnerd.dashboard.access import Access
from learnerd.dashboard.server import DashboardServer
from learnerd.dashboard.views import Views
from learnerd.history import MEANS, History
from learnerd.status_file import new_document, write_status

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip("NO CHROMIUM: the dashboard is not tested in a browser; apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def dashboard(site):
    """A running daemon with a dashboard: its process and address."""

    def start(more=""):
        site.configure(f'[telemetry]\nhttp = "127.0.0.1:0"\n{more}\n[stability]\nstarvation_episodes = 3\n')
        process = site.start()
        site.wait(lambda: '"dashboard_ready"' in site.log(), what="the dashboard")
        lines = [json.loads(line) for line in site.log().splitlines() if '"dashboard_ready"' in line]
        return process, lines[-1]["url"]

    return start


@pytest.mark.slow
def test_it_is_live_and_says_when_it_is_not(site, drop, dashboard, browser):
    process, url = dashboard()
    browser.open(url)
    browser.wait("document.getElementById('state').textContent === 'running'")
    assert "no figure in this time" in browser.text("#charts")
    for _ in range(16):
        drop()
    browser.wait("document.getElementById('versions').innerText.includes('current')")
    browser.wait("document.querySelectorAll('#charts svg .dot').length >= 7")
    tiles = browser.text("#tiles")
    assert "published" in tiles
    assert "16" in tiles
    for title in ("Return", "Policy loss", "Entropy", "KL", "Staleness", "Effective share (ESS)", "Lag"):
        assert title in browser.text("#charts")
    for name in ("1 hour", "all"):
        browser.evaluate(
            f"[...document.querySelectorAll('button')].find(b => b.innerText === '{name}').click()"
        )
        browser.wait("document.querySelectorAll('#charts svg .dot').length >= 7")
    process.kill()
    process.wait()
    browser.wait("document.getElementById('answer').textContent.includes('no answer since')")
    assert "16" in browser.text("#tiles")
    assert [error for error in browser.errors if "ERR_CONNECTION" not in error.get("text", "")] == []


def test_what_clients_write_stays_text(site, drop, dashboard, browser):
    _, url = dashboard()
    for i in range(3):
        drop(meta={"client_id": EVIL, "ended_at": time.time() - 7200, "episode_id": f"{EVIL}{i}"})
    drop(name="<b>x.npz", meta={"terminated": EVIL})
    (site.inbox / "<svg onload=alert(1)>.exe").write_bytes(b"")
    browser.open(url)
    browser.wait("document.getElementById('alarms').innerText.includes('onerror')")
    browser.wait("document.getElementById('refusals').innerText.includes('too_old')")
    browser.wait("document.getElementById('refusals').innerText.includes('unknown_format')")
    assert EVIL.partition('"')[0] in browser.text("#alarms")
    assert "What to do" in browser.text("#alarms")
    assert browser.evaluate("document.querySelectorAll('img, main script, b').length") == 0
    assert "owned" not in browser.evaluate("document.title")
    assert browser.errors == []


@pytest.fixture
def alone(tmp_path):
    """A dashboard without a daemon, over what one left behind: its address."""
    servers = []

    def start(token=None, holds=()):
        for name in ("spool/in", "state"):
            (tmp_path / name).mkdir(parents=True)
        config = Config.model_validate({"paths": {"spool": tmp_path / "spool", "state": tmp_path / "state"}})
        write_status(tmp_path / "state", new_document(daemon={"state": "running", "holds": list(holds)}))
        history = History(tmp_path / "state", config.history)
        history.write([{"at": time.time(), "episodes": 1, **dict.fromkeys(MEANS, 1.0)}])
        history.close()
        server = DashboardServer(("127.0.0.1", 0), views=Views(config), access=Access(token=token))
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server.url

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_token_is_asked_for_once(alone, browser):
    url = alone("sesame-open-sesame")
    browser.open(url)
    browser.wait("document.querySelector('input[type=password]') !== null")
    browser.evaluate("document.querySelector('input').value = 'sesame-open-sesame'")
    browser.evaluate("document.querySelector('form').submit()")
    browser.wait("document.getElementById('state')?.textContent === 'running'")
    assert browser.evaluate("document.cookie") == ""
    browser.open(url)
    browser.wait("document.getElementById('state')?.textContent === 'running'")


def test_a_hold_is_told_at_the_top(alone, browser):
    hold = {"why": "paused", "message": f"paused: {EVIL}", "since": 1.0, "until": time.time() + 3600.0}
    browser.open(alone(holds=[hold, {"why": "busy", "message": "busy: 'game'", "since": 1.0, "until": None}]))
    browser.wait("document.getElementById('state')?.textContent.includes(\"busy: 'game'\")")
    text = browser.evaluate("document.getElementById('state').textContent")
    assert text.startswith("running; paused: ")
    assert ", until " in text
    assert browser.evaluate("document.getElementById('state').className") == "state warn"
    assert browser.evaluate("document.querySelectorAll('img, b').length") == 0


def test_it_fits_a_phone_and_the_dark(alone, browser):
    browser.open(alone(), width=360, height=740, scheme="dark")
    browser.wait("document.querySelectorAll('#charts svg .dot').length >= 6")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in background.strip("rgb()").split(",")) < 40
