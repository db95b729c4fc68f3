"""Make the pictures of the README from a real run: ``python tests/screenshots.py``; Chromium is needed.

A daemon learns CartPole from two clients, some files are bad, and one client's clock is wrong.
"""

import argparse
import html
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "learnerd")]

from browser import Browser, find_chromium  # noqa: E402

IMAGES = ROOT / "learnerd" / "docs" / "images"
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; background: #16181d; color: #e4e5e8; }
pre { margin: 0; padding: 18px 22px; font: 15px/1.45 "DejaVu Sans Mono", monospace; white-space: pre-wrap; }
b { color: #fff } .red { color: #ff8a80 } .yellow { color: #e8b64c } .prompt { color: #52c48b }
</style><pre><span class="prompt">$</span> learnerd status
"""
STYLES = {"1": "b", "31": 'span class="red"', "33": 'span class="yellow"'}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "mybot"
        learn(folder)
        make(folder, out)


def learn(folder):
    """Play until it is solved, or for some minutes; slowly enough for a busy machine to keep up."""
    options = ("--rate", "400", "--timeout", "240", "--plot", folder.parent / "demo.png")
    command = [sys.executable, "-m", "learnerd", "demo", "--dir", folder, *options]
    subprocess.run(command, env=ENV, check=False)
    inbox = folder / "spool" / "in"
    for i in range(40):
        ended_at = time.time() - 7200
        lines = (
            {"episode_id": str(i), "client_id": "bot-7", "ended_at": ended_at},
            {"obs": [0.0] * 4, "action": 1, "reward": 1.0},
            {"final_obs": [0.0] * 4, "terminated": True, "truncated": False},
        )
        (inbox / f"late-{i}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for i in range(6):
        (inbox / f"{i}.npz").write_bytes(b"PK\3\4 half of it")
    (inbox / "notes.txt").write_text("hello")


def make(folder, out):
    config = folder / "config.toml"
    command = [sys.executable, "-m", "learnerd"]
    with (folder / "dashboard.log").open("w") as log:
        daemon = subprocess.Popen(
            [*command, "run", "--config", config],
            env={**ENV, "LEARNERD_TELEMETRY_HTTP": "127.0.0.1:0", "LEARNERD_TELEMETRY_LOG": "json"},
            stdout=log,
            stderr=log,
        )
    browser = Browser(find_chromium(), folder.parent / "browser")
    try:
        url = None
        while url is None:
            time.sleep(0.2)
            text = (folder / "dashboard.log").read_text()
            url = next(iter(re.findall(r'"url": "([^"]+)"', text)), None)
        out.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            browser.open(url, width=1180, height=1930, scheme=scheme)
            browser.wait("document.getElementById('alarms').innerText.includes('is refused')")
            browser.wait("document.getElementById('refusals').innerText.includes('truncated')")
            browser.wait("document.querySelectorAll('#charts svg .dot').length >= 8")
            browser.screenshot(out / f"dashboard-{scheme}.png")
        terminal(
            browser, [*command, "status", "--config", config], folder.parent / "t.html", out / "status.png"
        )
    finally:
        browser.close()
        daemon.terminate()
        daemon.wait()


def terminal(browser, command, page, out):
    """A terminal's colors as HTML, and a picture of that."""
    env = {**ENV, "COLUMNS": "104", "FORCE_COLOR": "1", "TERM": "xterm"}
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
    text = html.escape(shown)
    for code, tag in STYLES.items():
        text = re.sub(rf"\x1b\[{code}m(.*?)\x1b\[0m", rf"<{tag}>\1</{tag.split()[0]}>", text, flags=re.DOTALL)
    page.write_text(TERMINAL + re.sub(r"\x1b\[[0-9;]*m", "", text))
    browser.open(page.as_uri(), width=1040, height=100)
    browser.wait("document.querySelector('pre') !== null")
    browser.open(page.as_uri(), width=1040, height=browser.evaluate("document.documentElement.scrollHeight"))
    browser.wait("document.querySelector('pre') !== null")
    browser.screenshot(out)


if __name__ == "__main__":
    main()
