"""Backup, restore and moving: the guide's own commands, while the daemon learns and compacts."""

import re
import subprocess
import threading
from pathlib import Path

import pytest
from archive_tools import learn, reader

from experience.archive_folder import compacted_shards, day_folders
from experience.episode import EpisodeKey
from experience.spool import Spool
from learnerd.config import load_config
from learnerd.doctor import store
from learnerd.replay import archived_versions, replay
from policies.store import CheckpointStore

GUIDE = Path(__file__).parents[2] / "learnerd/docs/operations.md"
DUE = (
    "import learnerd.compaction as c, learnerd.maintenance as m; c.SLICE_S = 0.0; real = m.start_calendar; "
    "m.start_calendar = lambda config, job: (job(), real(config, job))[1]"
)
"""Maintenance is due when the daemon starts."""
HOME, BACKUP = "/var/lib/learnerd/mybot", "/backup/mybot"


def commands(section):
    """The guide's shell blocks of a section, without root."""
    text = GUIDE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [block.replace("sudo ", "") for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def run(script):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


def back_up(site, folder):
    made = run(commands("Backup and restore")[0].replace(HOME, str(site.folder)).replace(BACKUP, str(folder)))
    assert made.returncode in (0, 1), made.stderr  # 1: files changed meanwhile


def restore(site, backup):
    """Run what the guide says up to the start of the service."""
    restored = type(site)(site.folder / "restored")
    copying, _, rest = commands("Backup and restore")[1].partition("systemctl start")
    assert "learnerd doctor" in rest
    made = run(copying.replace(HOME, str(restored.folder)).replace(BACKUP, str(backup)))
    assert made.returncode == 0, made.stderr
    return restored


def check_whole(site, *, dropped, before):
    """Each of ``before`` is learned, and each once; the versions are whole, and the archive can be read."""
    found = store.check(load_config(site.folder / "config.toml", {}))
    assert {one.severity for one in found} == {"ok"}, found
    versions = CheckpointStore(site.state)
    keys = [EpisodeKey("bot", f"episode-{n}", 0, "") for n in range(1, dropped + 1)]
    learned = {key.episode_id for key in versions.lookup(keys)}
    assert {f"episode-{n}" for n in range(1, before + 1)} <= learned
    assert versions.head().counters["episodes"] == len(learned)
    archive = reader(site)
    rows = [e.episode_id for version in archive.versions() for e in archive.episodes(version)]
    assert len(rows) == len(set(rows))
    return set(rows)


def test_a_backup_made_while_it_learns_and_compacts_restores(site, drop):
    learn(site, drop, 2, 1, 1, 1)
    root = Spool(site.folder / "spool").archive_folder
    day_folders(root)[0].rename(root / "2020-01-01")
    site.configure(
        "[batch]\nmin_episodes = 1\n[archive]\nkeep_days = 99999\n"
        "[store]\nkeep_last = 3\nkeep_minutes = 0.0\nkeep_every = 0"
    )
    process = site.start(DUE)
    stop, dropped = threading.Event(), []

    def play():
        while not stop.wait(0.01):
            dropped.append(drop())

    player = threading.Thread(target=play)
    player.start()
    try:
        site.wait(lambda: (site.current() or 0) > 6, what="a few versions")
        before = 5 + len(dropped)
        back_up(site, site.folder.parent / "backup")
        site.wait(lambda: compacted_shards(root / "2020-01-01"), what="compaction")
    finally:
        stop.set()
        player.join()
    assert site.stop(process) == 0

    restored = restore(site, site.folder.parent / "backup")
    assert restored.run_here() in (0, 9)
    assert [path.name for path in restored.inbox.iterdir() if path.name[0] != "."] == []
    assert restored.files("claimed") == []
    rows = check_whole(restored, dropped=5 + len(dropped), before=before)
    assert {f"episode-{n}" for n in range(1, 6)} <= rows  # compacted meanwhile, or not yet


@pytest.mark.slow
def test_it_moves_to_another_folder_and_goes_on_there(site, drop):
    learn(site, drop, 4, 3)
    drop()
    there = type(site)(site.folder / "there")
    stop, copying = commands("Moving to another machine")[0].splitlines()
    assert "disable --now" in stop
    here, _, remote = copying.replace("ssh there", "bash -c").partition("|")
    here, remote = here.replace(HOME, str(site.folder)), remote.replace(HOME, str(there.folder))
    made = run(f"{here} --exclude=there | {remote}")
    assert made.returncode == 0, made.stderr
    assert named_in(there.folder, site.folder) == []
    config = load_config(there.folder / "config.toml", {})
    rows = replay(config, archived_versions(config), scratch=there.folder / "scratch")
    assert [row.same_weights for row in rows] == [True, True]
    there.configure("[learner]\nthreads = 2\nlearning_rate = 1e-3")
    assert there.run_here() == 0
    check_whole(there, dropped=8, before=8)
    records = [there.manifest(version)["record"]["config_digest"] for version in (2, 3)]
    assert there.current() == 3
    assert records[0] != records[1]


def named_in(folder, path):
    """Files that hold ``path`` in plain text."""
    return [
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name != "daemon.log" and str(path).encode() in file.read_bytes()
    ]
