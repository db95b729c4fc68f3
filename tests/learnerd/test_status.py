"""``learnerd status`` as a script and as a person see it, with and without a daemon."""

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError
from status_schema import SCHEMA, check_schema

import learnerd
from learnerd.cli.options import local_time
from learnerd.cli.status import shown
from learnerd.config_tables import History as Keep
from learnerd.history import DAY_S, History
from learnerd.status_file import SECTIONS, new_document, write_status
from learnerd.trend import BLOCKS

ENV = {**os.environ, "PYTHONPATH": str(Path(learnerd.__file__).parents[1])}


@pytest.fixture
def known(site):
    """A site with a history, and a daemon that stopped an hour ago."""
    site.state.mkdir()
    now = time.time()
    learning = {"return_mean_100": 98.5, "logp": {"logged": 3}, "plasticity": {"dormant_fraction": 0.0}}
    alarm = {"id": "x", "since": now, "message": "wrong", "remedy": "mend it"}
    document = new_document(
        daemon={"state": "stopped", "pid": 1},
        policy={"version": 7, "published_at": now - 3700, "parents": [6]},
        episodes={"learned": 12, "refused": {"too_old": 2}},
        learning=learning,
        alarms=[alarm],
    )
    write_status(site.state, document, now=now - 3600)
    history = History(site.state, Keep())
    rows = [{"at": now - DAY_S / 2 + i * 400, "episodes": 1, "return_mean": float(i)} for i in range(100)]
    history.write(rows)
    history.close()
    return site


def test_the_schema_is_the_contract():
    Draft202012Validator.check_schema(SCHEMA)
    for name, keys in SECTIONS.items():
        part = SCHEMA["properties"][name]
        assert list(part["properties"]) == list(keys)
        assert part["required"] == list(keys)
    assert SCHEMA["required"] == list(new_document())
    check_schema(new_document(daemon={"state": "never"}))


@pytest.mark.parametrize(
    "sections",
    [
        {"daemon": {"state": "asleep"}},
        {"policy": {"version": "7"}},
        {"episodes": {"refused": {"too_old": "2"}}},
        {"episodes": {"learned": None}},
        {"alarms": [{"id": 3, "since": 1.0, "message": "m", "remedy": "r"}]},
    ],
)
def test_the_schema_refuses_what_is_none(sections):
    with pytest.raises(ValidationError):
        check_schema(new_document(**{"daemon": {"state": "never"}, **sections}))


def test_the_document_of_a_daemon_that_is_gone(known):
    document = known.status()
    check_schema(document)
    assert document["policy"]["version"] == 7


def test_a_person_sees_what_matters(known):
    result = known.learnerd("status")
    assert result.returncode == 3
    for part in (
        "stopped, since",
        "60 min ago",
        "version 7",
        "12 episodes",
        "2 too_old",
        "what to do: mend it",
    ):
        assert part in result.stdout, part
    (trend,) = [line for line in result.stdout.splitlines() if line.startswith("trend")]
    assert BLOCKS[0] in trend
    assert BLOCKS[-1] in trend
    assert "over 1" in trend


def test_watching_a_terminal_goes_on_until_it_is_interrupted(known):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        known.command("status", "--watch"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**ENV, "TERM": "xterm", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while seen.count(b"stopped, since") < 3:  # drawn again and again
        seen += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 3
    os.close(ours)
    assert "▁".encode() in seen


def test_watching_elsewhere_writes_lines(known):
    process = subprocess.Popen(known.command("status", "--watch"), env=ENV, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(timeout=30) == 3
    assert "stopped, version 7, 12 learned, 2 refused, ? waiting, return 98.5, 1 alarms" in line


def test_watching_is_for_people(known):
    assert known.learnerd("status", "--watch", "--json").returncode == 2


def test_it_says_so_when_there_is_no_trend(site):
    result = site.learnerd("status")
    assert "trend" in result.stdout
    assert json.loads(site.learnerd("status", "--json").stdout)["daemon"]["state"] == "never"


def test_a_person_sees_why_it_does_not_learn(known):
    document = json.loads((known.state / "status.json").read_bytes())
    until = time.time() + 3600.0
    holds = [
        {"why": "paused", "message": "paused: \x1b[31mexam", "since": 1.0, "until": until},
        {"why": "busy", "message": "busy: 'game'", "since": None, "until": None},
    ]
    document["daemon"]["holds"] = holds
    document["process"] = {"written_at": None, "silent_s": None}
    lines = shown(document, None, "utf-8").splitlines()
    held = [line for line in lines if "held" in line]
    assert f"paused: \\x1b[31mexam, since {local_time(1.0)}, until {local_time(until)}" in held[0]
    assert held[1].endswith("busy: 'game'")
