"""``[export]``: every version beside its checkpoint, whatever happens to the daemon or to the folder."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_export import make_source

from learnerd.config import load_config
from learnerd.errors import ConfigError
from learnerd.export.exporter import Exporter
from learnerd.export.folder import ExportFolder
from policies.checkpoint import Delta
from policies.initial import initial_checkpoint
from policies.store import CheckpointStore

pytest.importorskip("onnxruntime", reason="the extra learnerd[onnx] is not installed")

SPACES = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
[batch]
max_wait_s = 0.1
min_episodes = 1
"""
ONNX = SPACES + '[export]\nformats = ["onnx", "npz"]\n'


def read(folder, name):
    """A file of the version that ``CURRENT`` names, checked as a client checks it; its version and bytes."""
    version = folder / (folder / "CURRENT").read_text().strip()
    manifest = json.loads((version / "manifest.json").read_bytes())
    data = (version / name).read_bytes()
    assert len(data) == manifest["files"][name]["bytes"]
    assert hashlib.sha256(data).hexdigest() == manifest["files"][name]["sha256"]
    assert manifest["version"] == int(version.name)
    return manifest["version"], data


def publish(state, count=1):
    """Publish versions as an online learner would."""
    store = CheckpointStore(state)
    for _ in range(count):
        head = store.head() or initial_checkpoint(make_source().spec, seed=0)
        rng = np.random.default_rng(head.version)
        change = {name: 0.1 * rng.standard_normal(array.shape) for name, array in head.weights.items()}
        head = store.publish(Delta(weights=change), base=head, writer="online", episodes=[])


@pytest.fixture
def exporter(site):
    """Build an exporter over the site; ended with the test."""
    running = []

    def start(formats='["npz"]', **options):
        site.configure(f"[export]\nformats = {formats}\n")
        running.append(Exporter(load_config(site.folder / "config.toml", {}), **options))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def exports(site):
    return ExportFolder(site.state)


def test_a_daemon_exports_what_it_publishes(site, drop):
    site.configure(ONNX)
    process = site.start()
    site.wait((site.state / "exports" / "CURRENT").exists, what="the first export")
    for _ in range(3):
        drop()
    site.wait(lambda: len(site.ledger_ids()) == 3, what="three episodes to be learned")
    assert site.stop(process) == 0
    assert site.current() > 1
    version, data = read(site.state / "exports", "policy.onnx")
    assert version == site.current()
    assert b"model_sha256" in data
    assert sorted(path.name for path in (site.state / "exports").glob("[0-9]*")) == sorted(
        path.name for path in (site.state / "checkpoints").glob("[0-9]*")
    )
    assert site.status()["alarms"] == []


def test_a_finite_run_ends_with_its_newest_version_exported(site, drop):
    site.configure(ONNX)
    drop()
    assert site.run_here() == 0
    assert read(site.state / "exports", "policy.npz")[0] == site.current() == 2


CRASHES = {
    "before the files": "f.ExportFolder.write = lambda self, *rest: os._exit(77)",
    "before the rename": "f.ExportFolder.remove = lambda self, version: os._exit(77)",
    "after the rename": "f.fsync_folder = lambda path: os._exit(77)",
    "before CURRENT": "f.ExportFolder.point_to = lambda self, version: os._exit(77)",
}


ALONE = """
import os, sys
from pathlib import Path
import learnerd.export.folder as f
from learnerd.config import load_config
from learnerd.export.exporter import Exporter
exec(sys.argv[2])
Exporter(load_config(Path(sys.argv[1]), {})).close()
"""


@pytest.mark.parametrize("where", CRASHES)
def test_a_kill_leaves_whole_exports_and_a_restart_completes_them(site, exports, exporter, where):
    publish(site.state, 2)
    site.configure('[export]\nformats = ["npz"]\n')
    command = [sys.executable, "-c", ALONE, str(site.folder / "config.toml"), CRASHES[where]]
    assert subprocess.run(command, env=site.env, check=False).returncode == 77
    assert exports.current() is None
    assert exports.versions() == ([2] if where in {"after the rename", "before CURRENT"} else [])
    assert all(exports.is_whole(version, ["npz"]) for version in exports.versions())
    exporter()
    site.wait(lambda: exports.versions() == [1, 2], what="both exports")
    assert read(site.state / "exports", "policy.npz")[0] == 2


@pytest.mark.slow
def test_a_daemon_killed_while_it_exports_has_learned(site, drop):
    site.configure(ONNX)
    drop()
    site.run_and_crash(f"import learnerd.export.folder as f; {CRASHES['before the rename']}")
    assert site.run_here() in {0, 9}
    assert site.ledger_ids() == ["episode-1"]
    assert read(site.state / "exports", "policy.onnx")[0] == site.current() == 2


def test_no_failure_of_an_export_reaches_the_learner(site, drop):
    site.configure(ONNX)
    (site.state).mkdir()
    (site.state / "exports").write_text("in the way")
    process = site.start()
    drop()
    site.wait(lambda: len(site.ledger_ids()) == 1, what="the episode to be learned")

    def alarms():
        document = json.loads((site.state / "status.json").read_bytes())
        return {alarm["id"]: alarm for alarm in document["alarms"]}

    drop()  # the status is written with the next cycle
    site.wait(lambda: "exports_not_written" in alarms(), what="the alarm")
    assert "learning goes on without it" in alarms()["exports_not_written"]["remedy"]
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


def test_versions_of_others_are_exported_too_newest_first(site, exporter, exports, monkeypatch):
    publish(site.state, 3)
    written = []
    write = ExportFolder.write
    monkeypatch.setattr(
        ExportFolder,
        "write",
        lambda self, version, *rest: (written.append(version), write(self, version, *rest)),
    )
    exporter()
    site.wait(lambda: exports.versions() == [1, 2, 3], what="all exports")
    assert written == [3, 2, 1]
    publish(site.state)
    site.wait(lambda: exports.current() == 4, what="the next")


def test_a_newer_version_does_not_wait_for_the_older_ones(site, exporter, exports, monkeypatch):
    publish(site.state, 6)
    written = []
    write = ExportFolder.write

    def slowly(self, version, *rest):
        if not written:
            publish(site.state)  # while the first export is written
        written.append(version)
        write(self, version, *rest)

    monkeypatch.setattr(ExportFolder, "write", slowly)
    exporter()
    site.wait(lambda: len(written) == 7, what="all exports")
    assert written == [6, 7, 5, 4, 3, 2, 1]


def test_current_never_names_what_is_not_there(site, exporter, exports):
    running = exporter()
    for _ in range(20):
        publish(site.state)
        running.look()
        if exports.current() is not None:
            assert exports.is_whole(exports.current(), ["npz"])
            assert exports.current() <= site.current()
    site.wait(lambda: exports.current() == 20, what="the last")


def test_exports_go_with_their_versions(site, exporter, exports):
    publish(site.state, 4)
    running = exporter()
    site.wait(lambda: exports.versions() == [1, 2, 3, 4], what="all exports")
    CheckpointStore(site.state).prune(
        keep_last=2, keep_every=0, keep_minutes=0, keep_bytes=10**9, now_s=time.time() + 1
    )
    running.look()
    site.wait(lambda: exports.versions() == [3, 4], what="two to go")
    assert exports.current() == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest"])
def test_a_damaged_export_is_written_again_at_the_start(site, exporter, exports, damage):
    publish(site.state)
    exporter().close()
    folder = site.state / "exports" / "00000001"
    before = (folder / "policy.npz").read_bytes()
    if damage == "flip":
        (folder / "policy.npz").write_bytes(before[:50] + bytes([before[50] ^ 1]) + before[51:])
    elif damage == "cut":
        (folder / "policy.npz").write_bytes(before[:-1])
    elif damage == "gone":
        (folder / "policy.npz").unlink()
    else:
        (folder / "manifest.json").write_text("{}")
    assert not exports.is_whole(1, ["npz"])
    exporter()
    site.wait(lambda: exports.is_whole(1, ["npz"]), what="it to be whole again")
    assert (folder / "policy.npz").read_bytes() == before


def test_another_choice_of_formats_is_written_over_the_old_one(site, exporter, exports):
    publish(site.state, 2)
    exporter().close()
    exporter('["safetensors", "npz"]')
    site.wait(lambda: exports.is_whole(1, ["npz", "safetensors"]), what="both formats")
    assert read(site.state / "exports", "policy.safetensors")[0] == 2


def test_a_damaged_version_is_left_out(site, exporter, exports):
    publish(site.state, 2)
    (site.state / "checkpoints" / "00000002" / "model.safetensors").write_bytes(b"x")
    running = exporter()
    site.wait(lambda: exports.versions() == [1], what="the whole one")
    site.wait(lambda: exports.current() == 1, what="the whole one")
    assert running.problem is None


def test_a_folder_that_is_mended_is_written_to(site, exporter, exports):
    publish(site.state)
    (site.state / "exports").write_text("in the way")
    running = exporter(retry_s=0.05)
    site.wait(lambda: running.problem is not None, what="a problem")
    (site.state / "exports").unlink()
    site.wait(lambda: exports.current() == 1 and running.problem is None, what="an export")


def test_a_lost_folder_is_made_again(site, exporter, exports):
    publish(site.state)
    exporter().close()
    shutil.rmtree(site.state / "exports")
    exporter()
    site.wait(lambda: exports.current() == 1, what="an export")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('formats = ["pickle"]', '[export] formats is ["pickle"]; accepted: a list of onnx, onnx_int8'),
        ('formats = ["npz", "npz"]', "each once"),
        ('formats = ["onnx_int8"]', "exact ones (onnx, safetensors, npz), or lossy = true too"),
    ],
)
def test_the_configuration_says_what_it_accepts(site, text, complaint):
    site.configure(f"[export]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(site.folder / "config.toml", {})
    assert complaint in str(caught.value)


def test_a_missing_extra_is_said_before_the_start(site):
    site.configure(ONNX)
    result = site.run_patched("import importlib.util as u; u.find_spec = lambda name: None")
    assert result.returncode == 6
    assert "pip install 'learnerd[onnx]'" in result.stderr
