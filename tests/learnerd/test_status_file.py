import json
import os
import subprocess
import sys

import numpy as np
import pytest

from learnerd.config import Config
from learnerd.status_file import is_alive, is_healthy, live_document, new_document, read_status, write_status

ALARM = {"id": "x", "since": 1.0, "message": "m", "remedy": "r"}


@pytest.fixture
def config(tmp_path):
    for name in ("spool/in", "spool/claimed/daemon", "state"):
        (tmp_path / name).mkdir(parents=True)
    return Config.model_validate({"paths": {"spool": tmp_path / "spool", "state": tmp_path / "state"}})


def running(**sections):
    return new_document(daemon={"state": "running", "pid": os.getpid(), "uptime_s": 5.0}, **sections)


def test_schema_is_the_contract():
    document = new_document()
    assert {name: list(value) for name, value in document.items() if isinstance(value, dict)} == {
        "daemon": ["state", "pid", "uptime_s", "device", "config_digest", "holds"],
        "policy": ["version", "parents", "published_at", "algorithm", "parameters"],
        "episodes": ["learned", "refused", "quarantined", "pending", "oldest_pending_age_s"],
        "learning": [
            *["updates", "steps", "return_mean_100", "return_last", "loss", "entropy", "kl", "ess_fraction"],
            *["staleness_mean", "lr", "batch_episodes", "batch_steps", "unlogged_steps", "policy_updates"],
            *["noise_scale_steps", "value_loss", "grad_norm", "value_grad_norm", "ratio_max", "plasticity"],
            *["reuse", "logp"],
        ],
        "latency": ["drop_to_publish_p50_s", "drop_to_publish_p99_s", "update_s", "publish_s"],
        "disk": ["spool_bytes", "archive_bytes", "free_bytes"],
        "gate": [
            *["mode", "acting", "candidate", "against", "outcome", "reason", "episodes"],
            *["value", "low", "high", "margin", "ess_fraction", "probabilities"],
        ],
    }
    assert (document["schema"], document["alarms"]) == (1, [])


@pytest.mark.parametrize(
    "sections", [{"polcy": {}}, {"policy": {"versions": 1}}, {"alarms": [{"id": "x", "message": "m"}]}]
)
def test_a_document_takes_no_other_names(sections):
    with pytest.raises(ValueError, match=r"polcy|versions|an alarm needs"):
        new_document(**sections)


def test_documents_share_nothing():
    new_document()["episodes"]["refused"]["age"] = 1
    assert new_document()["episodes"]["refused"] == {}


def test_written_and_read_back(config):
    state = config.paths.state
    write_status(
        state,
        running(policy={"version": np.int64(3)}, learning={"loss": float("nan"), "kl": np.float64(0.5)}),
    )
    document = read_status(state)
    assert document["policy"]["version"] == 3
    assert document["learning"]["loss"] is None
    assert document["learning"]["kl"] == 0.5
    assert [entry.name for entry in state.iterdir()] == ["status.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": 2}', '{"schema": 1', "\xff", "[" * 100_000])
def test_what_is_no_status_document_is_none(config, text):
    (config.paths.state / "status.json").write_text(text, encoding="latin-1")
    assert read_status(config.paths.state) is None
    assert live_document(config)["daemon"]["state"] == "never"


def test_a_document_with_holes_is_filled(config):
    text = json.dumps(
        {"schema": 1, "daemon": 3, "episodes": {"learned": 7}, "alarms": [{"id": "x"}, 3], "process": []}
    )
    (config.paths.state / "status.json").write_text(text)
    document = live_document(config)
    assert document["episodes"]["learned"] == 7
    assert document["episodes"]["refused"] == {}
    assert document["daemon"]["state"] == "dead"
    assert document["alarms"] == [{"id": "x", "since": None, "message": None, "remedy": None}]


def test_never_ran(config):
    document = live_document(config)
    assert document["daemon"]["state"] == "never"
    assert not is_alive(document)
    assert document["process"] == {"written_at": None, "silent_s": None}


def test_a_living_daemon_is_healthy(config):
    write_status(config.paths.state, running(learning={"recent_returns": [1.0]}), now=100.0)
    document = live_document(config, now=130.0)
    assert is_healthy(document)
    assert document["daemon"]["uptime_s"] == 35.0
    assert document["disk"]["free_bytes"] > 0
    assert "recent_returns" not in document["learning"]
    assert read_status(config.paths.state)["learning"]["recent_returns"] == [1.0]


def test_silence_of_a_living_daemon_is_an_alarm(config):
    write_status(config.paths.state, running(), now=100.0)
    document = live_document(config, now=161.0)
    assert is_alive(document)
    assert not is_healthy(document)
    assert [(alarm["id"], alarm["since"]) for alarm in document["alarms"]] == [("status_stale", 100.0)]


@pytest.mark.parametrize(
    ("level", "healthy"), [({}, False), ({"level": "alarm"}, False), ({"level": "notice"}, True)]
)
def test_alarms_degrade_and_notices_do_not(config, level, healthy):
    write_status(config.paths.state, running(alarms=[{**ALARM, **level}]))
    assert is_healthy(live_document(config)) is healthy


def test_stopped_is_not_dead(config):
    write_status(config.paths.state, new_document(daemon={"state": "stopped"}))
    document = live_document(config)
    assert document["daemon"]["state"] == "stopped"
    assert document["daemon"]["pid"] is None


WRITE = """
import sys
from pathlib import Path
from learnerd.status_file import new_document, write_status
write_status(Path(sys.argv[1]), new_document(daemon={"state": "running"}))
print("written", flush=True)
sys.stdin.read()
"""


def test_a_killed_daemon_is_dead_even_as_a_zombie(config):
    arguments = [sys.executable, "-c", WRITE, str(config.paths.state)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout.readline() == b"written\n"
        assert live_document(config)["daemon"]["state"] == "running"
        daemon.kill()
        daemon.stdout.read()
        os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
        assert live_document(config)["daemon"]["state"] == "dead"
    assert live_document(config)["daemon"]["state"] == "dead"


def test_another_process_with_the_same_number_is_not_the_daemon(config):
    write_status(config.paths.state, running())
    file = config.paths.state / "status.json"
    document = json.loads(file.read_text())
    boot, start = document["process"]["identity"].split("/")
    for identity in (f"{boot}/{int(start) + 1}", f"{boot[::-1]}/{start}", None):
        document["process"]["identity"] = identity
        file.write_text(json.dumps(document))
        assert live_document(config)["daemon"]["state"] == "dead"


def test_waiting_files_are_counted_now(config):
    write_status(config.paths.state, running(episodes={"pending": 99}))
    spool = config.paths.spool
    for path, mtime in (("in/a.npz", 50), ("in/.tmp-b", 1), ("claimed/daemon/c.0.d", 30), ("in/e", 60)):
        (spool / path).write_bytes(b"")
        os.utime(spool / path, (mtime, mtime))
    (spool / "in/link").symlink_to("/nowhere")
    document = live_document(config, now=100.0)
    assert document["episodes"]["pending"] == 4
    assert document["episodes"]["oldest_pending_age_s"] == 70.0


def test_an_empty_or_unlisted_spool(config):
    assert live_document(config)["episodes"]["pending"] == 0
    assert live_document(config)["episodes"]["oldest_pending_age_s"] is None
    (config.paths.spool / "in").rmdir()
    assert live_document(config)["episodes"]["pending"] is None
