"""Each thing that can be wrong is found, and said with its remedy; nothing is disturbed."""

import dataclasses
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from learnerd import cli, versions
from learnerd.cli.doctor import exit_code
from learnerd.config import Config, load_config
from learnerd.doctor import Finding, configuration, examine, folders, locks, machine, scratch, store, trial
from learnerd.status_file import new_document, write_status

ENV = {"PATH": os.environ["PATH"]}
LOCKS = "1: FLOCK  ADVISORY  WRITE {pid} {device} 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 77 {device} 0 EOF\n"


@pytest.fixture
def config(tmp_path):
    for name in (*(f"spool/{name}" for name in folders.SPOOL_FOLDERS), "spool/claimed/daemon"):
        (tmp_path / name).mkdir(parents=True)
    for name in folders.STATE_FOLDERS:
        (tmp_path / "state" / name).mkdir(parents=True)
    (tmp_path / "config.toml").write_text("")
    return load_config(tmp_path / "config.toml", {})


@pytest.fixture
def no_trial(monkeypatch):
    """The pipeline is not started; what it was asked for is in the list."""
    asked = []
    monkeypatch.setattr(trial, "_run", lambda *arguments: asked.append(arguments) or (1, "not today"))
    return asked


def only(findings, check):
    (found,) = [one for one in findings if one.check == check]
    assert (found.remedy == "") == (found.severity == "ok")
    return found


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(config, hidden=(64, 64)):
    """One version as the store writes it, without the store."""
    from policies.checkpoint import Delta  # noqa: PLC0415 - loads numpy
    from policies.initial import initial_checkpoint  # noqa: PLC0415
    from policies.spec import DiscreteSpace, PolicySpec  # noqa: PLC0415
    from policies.store import CheckpointStore  # noqa: PLC0415

    spec = PolicySpec(observation_shape=(3,), action=DiscreteSpace(n=2), hidden=hidden)
    store = CheckpointStore(config.paths.state)
    base = store.head() or initial_checkpoint(spec, seed=0)
    return store.publish(Delta(weights={}), base=base, writer="test", episodes=[]).version


def resting(site):
    """What the daemon itself does not write while nothing comes in."""
    written = ("status.json", "history.sqlite", "returns.json", "daemon.log")
    return {path: data for path, data in files(site.folder).items() if not path.name.startswith(written)}


def test_a_daemon_that_runs_is_not_disturbed_and_one_episode_is_tried(site, drop):
    site.configure("[batch]\nmin_episodes = 1")
    process = site.start()
    drop()
    site.wait(lambda: '"event": "cycle_ended"' in site.log(), what="a version")
    before = resting(site)
    result = site.learnerd("doctor", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert document["healthy"] is True
    found = {one["check"]: one for one in document["findings"]}
    assert {tuple(one) for one in document["findings"]} == {("check", "severity", "what", "remedy")}
    assert found["lock instance"]["what"] == f"held by the daemon, pid {process.pid}"
    assert found["daemon"]["what"] == f"running, pid {process.pid}"
    assert found["versions"]["what"] == "1, all files as their manifests say"
    assert "one episode was learned and published, on cpu" in found["pipeline"]["what"]
    assert resting(site) == before
    assert list(site.folder.glob(".learnerd-doctor-*")) == []
    assert site.stop(process) == 0


def doctor(monkeypatch, capsys, *arguments):
    """Run the command in this process; its exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["learnerd", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().out


@pytest.mark.usefixtures("no_trial")
def test_a_config_that_is_missing_or_broken_hides_nothing_else(tmp_path, monkeypatch, capsys):
    file = tmp_path / "config.toml"
    code, said = doctor(monkeypatch, capsys, "--config", file)
    assert code == 6
    assert "failure config: " in said
    file.write_text("[batch]\nmin_episodes = 0")
    code, said = doctor(monkeypatch, capsys, "--config", file)
    assert code == 6
    assert "min_episodes is 0; accepted: an integer" in said
    assert "failure pipeline: exit code 1: not today" in said
    assert said.endswith("2 failures\n")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("severities", "code"),
    [(["ok", "notice"], 0), (["ok", "warning"], 4), (["warning", "failure"], 1)],
)
def test_the_exit_code_says_how_it_is(config, monkeypatch, capsys, severities, code):
    found = [Finding(check="x", severity=severity, what="a\x1bb", remedy="do") for severity in severities]
    monkeypatch.setattr("learnerd.cli.doctor.examine", lambda *_: iter(found))
    returned, said = doctor(monkeypatch, capsys, "--config", config.file)
    assert returned == code
    assert r"a\x1bb" in said
    returned, said = doctor(monkeypatch, capsys, "--json", "--config", config.file)
    assert returned == code
    assert json.loads(said)["healthy"] is (code == 0)


def test_all_is_well(config, no_trial, tmp_path):
    before = files(tmp_path)
    found = list(examine(config, ENV))
    assert {one.severity for one in found if one.check != "pipeline"} <= {"ok", "notice"}
    assert len({one.check for one in found}) == len(found)
    assert only(found, "pipeline").what == "exit code 1: not today"
    assert files(tmp_path) == before
    assert exit_code(found) == 1
    assert exit_code([one for one in found if one.check != "pipeline"]) == 0


@pytest.mark.usefixtures("no_trial")
def test_folders_that_do_not_exist_yet_are_no_fault(tmp_path):
    (tmp_path / "config.toml").write_text("")
    found = list(examine(load_config(tmp_path / "config.toml", {}), ENV))
    assert only(found, "spool").what.endswith("is not there yet: the daemon makes it")
    assert only(found, "versions").what == "none yet"
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_without_torch_or_with_one_for_another_machine(config, monkeypatch):
    cuda = config.model_copy(update={"learner": config.learner.model_copy(update={"device": "cuda"})})
    monkeypatch.setattr(machine.runpy, "run_path", lambda _: {"__version__": "2.9", "cuda": None})
    assert machine.torch_build(cuda).severity == "failure"
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    assert "GPU of this machine is not used" in machine.torch_build(config).what
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert machine.torch_build(config).severity == "ok"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install torch" in machine.torch_build(config).remedy


@pytest.mark.parametrize(
    ("learner", "env", "said"),
    [
        ({}, {"OMP_NUM_THREADS": "8"}, "OMP_NUM_THREADS is 8 in the environment"),
        ({"threads": 64}, {}, "may use"),
        ({"threads": 2}, {}, "layers of up to 64 units"),
        ({}, {"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_threads(monkeypatch, learner, env, said):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    (found,) = machine.threads(Config.model_validate({"learner": learner}), env)
    assert found.severity == ("warning" if said else "ok")
    assert (said or "1 of 4 cores") in found.what


def test_inotify_limits(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.inotify().severity == "notice"
    limits = tmp_path / "sys/fs/inotify"
    limits.mkdir(parents=True)
    for name in machine.INOTIFY:
        (limits / name).write_text("8192\n")
    assert machine.inotify().severity == "ok"
    (limits / "max_user_watches").write_text("8\n")
    assert machine.inotify().remedy == "sysctl fs.inotify.max_user_watches=8192"


def test_the_clock(config, monkeypatch):
    publish(config)
    monkeypatch.setattr(machine, "_is_unsynchronized", lambda: False)
    assert [one.severity for one in machine.clock(config)] == ["ok"]
    now = time.time()
    monkeypatch.setattr(machine.time, "time", lambda: now - 3600)
    assert [one.severity for one in machine.clock(config)] == ["warning"]
    monkeypatch.setattr(machine.time, "time", lambda: 1000.0)
    assert [one.severity for one in machine.clock(config)] == ["failure"]


def test_rights(config, monkeypatch):
    closed = str(config.paths.spool / "archive")
    monkeypatch.setattr(os, "access", lambda path, _: str(path) != closed)
    found = only(folders.check(config), "spool")
    assert found.severity == "failure"
    assert closed in found.what


def test_a_state_that_anybody_may_write_in(config):
    config.paths.state.chmod(0o777)
    assert only(folders.check(config), "state").remedy == f"chmod o-w {config.paths.state}"


def test_a_file_where_a_folder_should_be(config):
    shutil.rmtree(config.paths.spool)
    config.paths.spool.write_text("")
    assert "is no folder" in only(folders.check(config), "spool").what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_folders_of_two_owners(config):
    os.chown(config.paths.spool / "in", 12345, -1)
    assert only(folders.check(config), "spool").severity == "warning"


@pytest.mark.parametrize(
    ("kind", "severity"),
    [("ext4", "ok"), ("nfs4", "failure"), ("tmpfs", "warning"), ("overlay", "notice"), ("xfs", "ok")],
)
def test_file_systems(config, monkeypatch, kind, severity):
    monkeypatch.setattr(folders, "_mounts", lambda: [(Path("/"), "ext4"), (config.paths.state, kind)])
    found = list(folders.check(config))
    assert only(found, "state file system").severity == severity
    assert only(found, "spool file system").severity == "ok"


def test_mounts_are_read_as_the_kernel_writes_them():
    assert Path("/") in [where for where, _ in folders._mounts()]


def test_a_spool_across_file_systems(config, monkeypatch):
    inside = config.paths.spool / "archive"
    monkeypatch.setattr(folders, "_mounts", lambda: [(Path("/"), "ext4"), (inside, "ext4")])
    found = only(folders.check(config), "renames")
    assert (found.severity, str(inside) in found.what) == ("failure", True)


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "severity"),
    [(2**20, 10**6, "failure"), (2**29, 10**6, "warning"), (2**31, 10**6, "ok"), (2**31, 10, "warning")],
)
def test_free_space(config, monkeypatch, free_bytes, free_files, severity):
    found = SimpleNamespace(f_bavail=free_bytes, f_frsize=1, f_favail=free_files, f_files=10**7)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert only(folders.check(config), "free space").severity == severity


def test_the_cost_of_a_flush(tmp_path, monkeypatch):
    assert folders.fsync_cost(tmp_path).severity in ("ok", "notice")
    monkeypatch.setattr(folders, "SLOW_FLUSH_S", 0.0)
    assert folders.fsync_cost(tmp_path).severity == "notice"

    def refuse(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    assert folders.fsync_cost(tmp_path).severity == "failure"


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_whose_holder_is_stopped_or_unknown(config):
    lock = config.paths.state / "lock" / "instance"
    assert only(locks.check(config), "lock instance").what == "free"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        found = only(locks.check(config), "lock instance")
        assert (found.severity, f"process {process.pid}," in found.what) == ("warning", True)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        found = only(locks.check(config), "lock instance")
        assert (found.severity, f"kill -CONT {process.pid}" in found.remedy) == ("failure", True)
    finally:
        process.kill()
        process.communicate()
    with lock.open("w") as file:  # and looking has taken nothing
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_claims_that_wait_for_somebody(config):
    claimed = config.paths.spool / "claimed"
    (claimed / "daemon" / "a").write_text("")
    (claimed / "other").mkdir()
    assert [one.severity for one in locks.check(config)] == ["ok", "ok", "notice"]
    (claimed / "other" / "b").write_text("")
    found = list(locks.check(config))[-1]
    assert (found.severity, "'other'" in found.what) == ("warning", True)


def test_every_byte_of_every_version_is_read(config):
    for _ in range(2):
        publish(config)
    assert [one.severity for one in store.check(config)] == ["ok"]
    model = config.paths.state / "checkpoints/00000001/model.safetensors"
    model.write_bytes(bytes([model.read_bytes()[0] ^ 1]) + model.read_bytes()[1:])
    found = only(store.check(config), "version 1")
    assert (found.severity, "model.safetensors: sha256" in found.what) == ("failure", True)
    (config.paths.state / "CURRENT").write_text("00000007\n")
    assert only(store.check(config), "CURRENT").what == "names version 7, which is gone"


def test_a_version_that_is_pruned_meanwhile_is_not_damaged(config, monkeypatch):
    for _ in range(2):
        publish(config)
    real = versions.damage

    def pruned(state, number):
        if number == 1:
            shutil.rmtree(state / "checkpoints/00000001")
        return real(state, number)

    monkeypatch.setattr(versions, "damage", pruned)
    assert [one.severity for one in store.check(config)] == ["ok"]


def test_each_version_is_read_once(config, monkeypatch):
    for _ in range(5):
        publish(config)
    read, real = [], versions.json.loads
    monkeypatch.setattr(versions.json, "loads", lambda data: read.append(1) or real(data))
    assert [one.severity for one in store.check(config)] == ["ok"]
    assert len(read) == 5


def test_every_byte_of_the_ledger_is_read(config):
    from policies.store import CheckpointStore  # noqa: PLC0415 - loads numpy

    for _ in range(4):
        publish(config)
    keep = {"keep_every": 0, "keep_minutes": 0.0, "keep_bytes": 10**12, "now_s": 1e12}
    assert CheckpointStore(config.paths.state).prune(keep_last=2, **keep) == [1, 2]
    assert only(store.check(config), "ledger").what == "whole; ids of versions up to 2"
    [run] = (config.paths.state / "ledger").iterdir()
    run.write_bytes(bytes([*run.read_bytes()[:-1], run.read_bytes()[-1] ^ 1]))
    found = only(store.check(config), "ledger")
    assert (found.severity, f"{run}: does not match its own sha256") == ("failure", found.what)


def test_a_version_of_another_release_is_named(config):
    from policies.manifest import encode_manifest  # noqa: PLC0415 - loads numpy

    publish(config)
    path = config.paths.state / "checkpoints/00000001/manifest.json"
    path.write_bytes(encode_manifest({**json.loads(path.read_bytes()), "schema": 2}))
    found = only(store.check(config), "version 1")
    assert (found.severity, "schema is 2; accepted: 1" in found.what) == ("failure", True)
    assert "run the release that wrote it" in found.remedy


def test_a_config_for_another_policy(config):
    publish(config, hidden=(4,))
    said = [one.what for one in configuration.check(config, {}) if one.severity == "failure"]
    assert any("[policy] hidden is [64, 64]; accepted: [4]" in what for what in said)


def test_overrides_are_named(config):
    found = only(configuration.check(config, {"LEARNERD_BATCH_REUSE": "2", "LEARNERD_PORT": "1"}), "config")
    assert found.what.endswith("config.toml, overridden by LEARNERD_BATCH_REUSE")


@pytest.mark.parametrize(
    ("digest", "alarm", "severities"),
    [
        (None, None, ["ok", "ok"]),
        ("other", None, ["ok", "ok", "notice"]),
        (None, "x", ["ok", "ok", "warning"]),
    ],
)
def test_what_the_running_daemon_says(config, digest, alarm, severities):
    alarms = [{"id": alarm, "since": 1.0, "message": "what", "remedy": "do"}] if alarm else []
    document = new_document(daemon={"state": "running", "config_digest": digest}, alarms=alarms)
    write_status(config.paths.state, document)
    assert [one.severity for one in configuration.check(config, {})] == severities


def test_a_daemon_that_died(config):
    write_status(config.paths.state, new_document(daemon={"state": "running"}))
    status = config.paths.state / "status.json"
    status.write_text(status.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
    assert only(configuration.check(config, {}), "daemon").severity == "warning"


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"observation_shape": (2, 3), "action": {"kind": "discrete", "n": 5}},
        {"observation_shape": (1,), "action": {"kind": "continuous", "shape": (2,)}},
        {"observation": {"kind": "image", "shape": (5, 5, 2)}, "action": {"kind": "multi_binary", "n": 3}},
        {
            "observation": {
                "kind": "dict",
                "spaces": {
                    "a": {"kind": "discrete", "n": 3, "start": -1},
                    "b": {
                        "kind": "tuple",
                        "spaces": ({"kind": "multi_binary", "n": 2}, {"kind": "box", "shape": ()}),
                    },
                    "c": {"kind": "multi_discrete", "nvec": (2, 3)},
                },
            },
            "action": {"kind": "multi_discrete", "nvec": (2, 2)},
        },
        {"action": {"kind": "discrete", "n": 2, "start": 5}},
    ],
)
def test_the_trial_is_admitted_by_any_policy(tmp_path, policy):
    from experience.admission import Rules, Sight, admit  # noqa: PLC0415 - loads numpy
    from experience.codec import decode  # noqa: PLC0415
    from learnerd.learn import infer_spec  # noqa: PLC0415

    trial._deposit(Config.model_validate({"policy": policy}), tmp_path / "in")
    path = tmp_path / "in/doctor.jsonl"
    decoded = decode(path.read_bytes(), name=path.name, source_sha256="", ingested_at=time.time())
    (episode,) = decoded.episodes
    spec = infer_spec(Config.model_validate({"policy": policy}).policy, [episode])
    assert episode.obs.shape == (4, *spec.observation_shape)
    rules = Rules(
        max_age_s=1e9,
        max_staleness=1,
        observation_shape=spec.observation_shape,
        observation=spec.space.canonical(),
        action=spec.action.canonical(),
    )
    assert admit(episode, rules, Sight(age_s=0.0, staleness=lambda _: 0)) is None
    expected = policy.get("observation_shape")
    assert expected is None or spec.observation_shape == expected


def test_a_pipeline_that_refuses_says_why(config, tmp_path, monkeypatch):
    def refuse(_file, folder, _env):
        (folder / "state").mkdir()
        record = {"reason": "unstable", "field": "kl", "value": "2", "accepted": "1"}
        (folder / "state/outcomes.jsonl").write_text(json.dumps(record) + "\n")
        return 0, ""

    monkeypatch.setattr(trial, "_run", refuse)
    found = trial.one_episode(config, tmp_path / "scratch", {})
    assert found.what == "the episode was not learned: unstable: kl is 2; accepted: 1"


def test_the_trial_runs_with_the_users_settings_elsewhere(config, tmp_path, monkeypatch):
    seen = {}

    class Process:
        pid, returncode = os.getpid(), 3

        def __init__(self, command, **options):
            seen.update(options, command=command)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731
        communicate = lambda self, timeout: ("", "said\n")  # noqa: E731

    monkeypatch.setattr(trial.subprocess, "Popen", Process)
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    found = trial.one_episode(config, tmp_path / "scratch", {"NOTIFY_SOCKET": "/run/x", "HOME": "/home/me"})
    assert found.what == "exit code 3: said"
    assert seen["command"][-1] == str(config.file)
    assert seen["env"]["LEARNERD_PATHS_STATE"] == str(tmp_path / "scratch" / "state")
    assert seen["env"]["HOME"] == "/home/me"
    assert "NOTIFY_SOCKET" not in seen["env"]


def test_the_scratch_folder_is_on_the_states_file_system_and_goes(config, tmp_path):
    with scratch.scratch_folder(config) as folder:
        assert folder.parent == tmp_path
        (folder / "x").write_text("")
    assert not folder.exists()
    elsewhere = config.paths.model_copy(update={"state": Path("/proc/self/state")})
    with scratch.scratch_folder(config.model_copy(update={"paths": elsewhere})) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_what_may_not_be_looked_at_is_a_finding(config, no_trial, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "/somewhere")
        yield

    monkeypatch.setattr(locks, "check", refuse)
    found = only(examine(config, ENV), "locks")
    assert (found.severity, "/somewhere" in found.what) == ("failure", True)
    assert dataclasses.asdict(found).keys() == {"check", "severity", "what", "remedy"}
