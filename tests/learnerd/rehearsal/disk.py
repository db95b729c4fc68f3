"""Disks that are full, and folders that are not as they were."""

import shutil

from rehearsal.rehearsals import (
    QUICK,
    SPACES,
    no_large_files,
    register,
    replaced_by_a_file,
    waiting_for_version,
)

OFTEN = """
import learnerd.maintenance
from apscheduler.triggers.interval import IntervalTrigger
learnerd.maintenance.CronTrigger = lambda **_: IntervalTrigger(seconds=0.3)
"""
"""A calendar whose minutes are short."""

KEPT = "[archive]\nkeep_days = 99999\n"
"""So that a day long ago is there to be compacted."""

IMPATIENT = """
import learnerd.recorder
learnerd.recorder.Recorder.__init__.__kwdefaults__["retry_s"] = 0.2
"""

LOOKS_OFTEN = """
import learnerd.scrub
learnerd.scrub.EVERY_S = 0.3
"""


@register("publish_failed", sample=True)
def no_room_for_a_version(site, drop):
    site.configure(SPACES + QUICK)
    process = site.start()
    with no_large_files(process):
        drop()
        yield
    waiting_for_version(site, 2)
    assert site.ledger_ids() == ["episode-1"]
    yield


@register("intake_failed")
def a_file_in_place_of_the_inbox(site, drop):
    site.configure(SPACES + QUICK)
    site.start()
    with replaced_by_a_file(site.inbox):
        yield
    drop()
    waiting_for_version(site, 2)
    yield


@register("intake_failed")
def no_room_for_refused_rows(site, drop):
    site.configure(SPACES + QUICK)
    process = site.start()
    with no_large_files(process):
        drop(steps=3000, width=9)  # too wide a observation, and too long to be copied
        yield
    site.wait(lambda: site.files("refused", "observation_width"), what="the refused rows")
    yield


@register("maintenance_failed")
def a_file_in_place_of_a_folder(site, drop):
    site.configure(SPACES + QUICK)
    site.start(patch=OFTEN)
    with replaced_by_a_file(site.folder / "spool" / "quarantine"):
        yield
    yield


def archived(site):
    """The shard of version 2, once it is there."""
    made = f"{2:08d}.parquet"
    site.wait(lambda: made in [path.name for path in site.files("archive")], what="its shard")
    return next(path for path in site.files("archive") if path.name == made)


def finish_its_day(site, shard):
    """Put a shard into a day that is over."""
    return shard.parent.rename(site.folder / "spool" / "archive" / "2020-01-01") / shard.name


@register("compaction_failed")
def no_room_to_compact(site, drop):
    site.configure(SPACES + QUICK + KEPT)
    process = site.start(patch=OFTEN)
    drop(steps=3000)
    waiting_for_version(site, 2)
    shard = archived(site)
    with no_large_files(process):
        finish_its_day(site, shard)
        yield
    yield


@register("archive_damaged")
def a_flipped_bit_in_the_archive(site, drop):
    site.configure(SPACES + QUICK + KEPT)
    process = site.start()
    drop()
    waiting_for_version(site, 2)
    assert site.stop(process) == 0
    shard = finish_its_day(site, archived(site))
    flip(shard)
    site.start(patch=OFTEN)
    yield
    shard.unlink()
    yield


@register("repair_failed")
def no_room_to_repair(site, drop):
    """The newest version is damaged while nothing can be written."""
    site.configure(SPACES + QUICK)
    process = site.start(patch=LOOKS_OFTEN)
    drop()
    waiting_for_version(site, 2)
    with no_large_files(process):
        flip(site.state / "checkpoints" / "00000002" / "model.safetensors")
        yield
    yield


@register("history_not_written")
def a_folder_in_place_of_the_history(site, drop):
    site.configure(SPACES + QUICK)
    path = site.state / "history.sqlite"
    path.mkdir(parents=True)
    site.start(patch=IMPATIENT)
    drop()
    yield
    path.rmdir()
    yield


@register("tensorboard_not_written")
def a_file_in_place_of_its_folder(site, drop):
    site.configure(SPACES + QUICK + "[telemetry]\ntensorboard = true\n")
    folder = site.state / "tensorboard"
    site.state.mkdir(exist_ok=True)
    folder.write_text("")
    site.start(patch=IMPATIENT)
    drop()
    yield
    folder.unlink()
    yield


@register("exports_not_written")
def a_file_in_place_of_the_exports(site, drop):
    site.configure(SPACES + QUICK + '[export]\nformats = ["npz"]\n')
    folder = site.state / "exports"
    site.state.mkdir(exist_ok=True)
    folder.write_text("")
    site.start()
    drop()
    yield
    folder.unlink()
    drop()
    yield


@register("history_damaged", level="notice", ends=False)
def noise_in_place_of_the_history(site, drop):
    site.configure(SPACES + QUICK)
    site.state.mkdir(exist_ok=True)
    (site.state / "history.sqlite").write_bytes(bytes(range(256)) * 64)
    site.start()
    drop()
    yield
    assert (site.state / "history.sqlite.damaged").exists()
    yield


@register("version_damaged", level="notice", ends=False)
def a_flipped_bit(site, drop):
    site.configure(SPACES + QUICK)
    site.start(patch=LOOKS_OFTEN)
    drop()
    waiting_for_version(site, 2)
    flip(site.state / "checkpoints" / "00000002" / "model.safetensors")
    yield
    waiting_for_version(site, 3)
    yield


@register("version_damaged")
def nothing_left_of_it(site, drop):
    """Neither the version nor the archive has what it learned: an alarm, until it is put back."""
    site.configure(SPACES + QUICK)
    process = site.start()
    drop()
    waiting_for_version(site, 2)
    assert site.stop(process) == 0
    kept = site.folder / "kept"
    shutil.copytree(site.state / "checkpoints" / "00000002", kept)
    shutil.rmtree(site.folder / "spool" / "archive")
    for path in (site.state / "checkpoints" / "00000002").iterdir():
        flip(path)
    site.start(patch=LOOKS_OFTEN)
    yield
    shutil.rmtree(site.state / "checkpoints" / "00000002")
    kept.rename(site.state / "checkpoints" / "00000002")
    yield


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
