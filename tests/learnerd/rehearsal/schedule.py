"""What keeps the daemon from learning, where that is not as it should be."""

import subprocess
import sys
from pathlib import Path

import pytest
from rehearsal.rehearsals import QUICK, SPACES, register

sys.path.append(str(Path(__file__).parents[2] / "campaign"))

from small_disk import Disk


@register("pause_unreadable")
def noise_in_place_of_a_pause(site, drop):
    site.configure(SPACES + QUICK)
    site.start()
    (site.state / "pause.json").write_text("soon\n")
    yield
    assert site.learnerd("resume").returncode == 9  # nothing was paused; the file is gone
    yield


@register("busy_stale")
def a_client_that_died_while_it_played(site, drop):
    site.configure(SPACES + QUICK + "busy_max_s = 0.5\n")  # of [schedule], with which QUICK ends
    site.start()
    game = site.folder / "spool" / "busy" / "game"
    game.touch()
    yield
    game.unlink()
    yield


@register("busy_unreadable")
def a_lock_that_cannot_be_opened(site, drop):
    """A link that leads to itself: for root every file can be opened."""
    site.configure(SPACES + QUICK)
    site.start()
    lock = site.folder / "spool" / "busy" / "game.lock"
    lock.symlink_to(lock)
    yield
    lock.unlink()
    yield


@register("disk_low")
def a_disk_that_others_fill(site, drop):
    try:
        disk = Disk(site.folder / "small", "size=64m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    try:
        paths = f'[paths]\nspool = "{disk.folder}/spool"\n'
        site.configure(paths + SPACES + QUICK + "[disk]\nmin_free_bytes = 16777216\n")
        process = site.start()
        disk.fill(inodes=False, leave=2048)  # blocks: 8 MiB
        yield
        disk.empty()
        yield
        assert site.stop(process) == 0
    finally:
        disk.close()
