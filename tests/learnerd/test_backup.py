"""A backup made with plain tar while the daemon learns is whole, by the command that the guide names."""

import re
import shlex
import subprocess
import threading
from pathlib import Path

from experience.episode import EpisodeKey
from learnerd.config import load_config
from learnerd.doctor import store
from policies.store import CheckpointStore

GUIDE = Path(__file__).parents[2] / "learnerd/docs/operations.md"


def command():
    """The guide's own words, without root and with other places."""
    line = re.search(
        r"^sudo (tar -C /var/lib/learnerd/mybot -cf mybot.tar .*)$", GUIDE.read_text(), re.MULTILINE
    )
    return line[1]


def test_a_backup_made_while_it_learns_restores(site, drop):
    site.configure("[batch]\nmin_episodes = 1\n[store]\nkeep_last = 3\nkeep_minutes = 0.0\nkeep_every = 0")
    process = site.start()
    stop, dropped = threading.Event(), []

    def play():
        while not stop.wait(0.01):
            dropped.append(drop())

    player = threading.Thread(target=play)
    player.start()
    try:
        site.wait(lambda: (site.current() or 0) > 5, what="a few versions")
        before = [f"episode-{n}" for n in range(1, len(dropped) + 1)]
        text = command().replace("/var/lib/learnerd/mybot", str(site.folder)).replace("mybot.tar", "../b.tar")
        made = subprocess.run(shlex.split(text), cwd=site.state, capture_output=True, text=True, check=False)
        assert made.returncode in (0, 1), made.stderr  # 1: files changed meanwhile
    finally:
        stop.set()
        player.join()
    assert site.stop(process) == 0

    restored = type(site)(site.folder / "restored")
    subprocess.run(["tar", "-C", restored.folder, "-xf", site.folder / "b.tar"], check=True)
    assert restored.run_here() in (0, 9)
    assert (
        list(restored.inbox.glob("[!.]*")) == restored.files("claimed") == []
    )  # no file but half-written ones
    found = store.check(load_config(restored.folder / "config.toml", {}))
    assert [one.severity for one in found] == ["ok"]
    versions = CheckpointStore(restored.state)
    keys = {f"episode-{n}": EpisodeKey("bot", f"episode-{n}", 0, "") for n in range(1, len(dropped) + 1)}
    learned = set(versions.lookup(list(keys.values())))
    assert {keys[name] for name in before} <= learned
    assert versions.head().counters["episodes"] == len(learned)  # each counted once
