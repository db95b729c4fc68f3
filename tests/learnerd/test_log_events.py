"""``docs/logs.md`` names every event of the source, with its levels and fields; a real daemon keeps to it."""

import ast
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "learnerd" / "docs" / "logs.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception"}
ALWAYS = {"event", "level", "timestamp", "logger", "cycle"}
OF_EXCEPTIONS = {"exc_info": "exception"}
CONFIG = """
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
[batch]
max_wait_s = 0.1
[admission]
settle_s = 0.1
[telemetry]
level = "LEVEL"
"""


def documented():
    """Event -> (levels, fields), as the table has them."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|(.*?)\| .+? \|$", DOCUMENT, re.MULTILINE)
    return {event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", f))) for event, levels, f in rows}


def calls():
    """Each call of a logger in the source: (event, levels, fields, whether it has all its fields by name).

    Either ``log.info("event", …)``, or ``tell("event", …)`` after ``tell = log.info if … else log.debug``.
    """
    for package in ("learnerd", "policies", "experience"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if "log = structlog.get_logger(" in text:
                functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
                for function in functions:
                    yield from calls_in(function)


def calls_in(function):
    nodes = list(ast.walk(function))
    tell = [node.value for node in nodes if isinstance(node, ast.Assign) and names(node.targets[0], "tell")]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        levels = levels_of([call.func]) or (levels_of(tell) if names(call.func, "tell") else set())
        if levels:
            fields = {OF_EXCEPTIONS.get(word.arg, word.arg) for word in call.keywords if word.arg}
            yield ast.literal_eval(call.args[0]), levels, fields, all(word.arg for word in call.keywords)


def names(node, name):
    return isinstance(node, ast.Name) and node.id == name


def levels_of(expressions):
    attributes = (n for e in expressions for n in ast.walk(e) if isinstance(n, ast.Attribute))
    return {node.attr for node in attributes if names(node.value, "log") and node.attr in LEVELS}


def test_the_document_names_every_event_and_no_other():
    assert {event for event, *_ in calls()} == documented().keys()


def test_levels_and_fields_are_as_documented():
    found, fields, whole = defaultdict(set), defaultdict(set), defaultdict(lambda: True)
    for event, levels, given, all_named in calls():
        found[event] |= levels
        fields[event] |= given
        whole[event] &= all_named
    for event, (levels, names_of_fields) in documented().items():
        assert found[event] == levels, event
        assert fields[event] <= names_of_fields, event
        if whole[event]:
            assert fields[event] >= names_of_fields - {"cycle"}, event


def test_no_event_above_debug_has_a_field_that_names_a_file():
    for event, (levels, fields) in documented().items():
        if event != "reloading":  # the configuration's own file
            assert "debug" in levels or not fields & {"file", "episode_id", "client_id"}, event


@pytest.fixture
def lines_of(site, drop):
    """Run a daemon over three cycles and every kind of verdict; give its lines."""

    def run(level):
        site.configure(CONFIG.replace("LEVEL", level))
        daemon = site.start()
        (site.inbox / "notes.txt").write_text("no episode")
        (site.inbox / "bad\n\x1b[31m.npz").write_bytes(b"no zip")
        for number in range(3):
            name = f"good-{number}.npz"
            drop(name, meta={"episode_id": f"secret-id-{number}"})
            drop(f"old-{number}.npz", meta={"ended_at": 1.0})
            wanted = number + 2
            site.wait(lambda wanted=wanted: (site.current() or 0) >= wanted, what="a version")
        drop("wide.npz", width=9)
        site.wait(lambda: not list(site.inbox.glob("[!.]*")), what="the inbox to be empty")
        assert site.stop(daemon) == 0
        text = (site.folder / "daemon.log").read_bytes()
        return [json.loads(line) for line in text.splitlines()]

    return run


def test_a_daemon_writes_one_info_line_a_cycle_and_names_no_file(lines_of):
    lines = lines_of("info")
    check_against_the_document(lines)
    assert [line["event"] for line in lines if line["event"] != "cycle_ended"] == [
        "ready",
        "draining",
        "stopped",
    ]
    cycles = [line for line in lines if line["event"] == "cycle_ended"]
    assert [line["cycle"] for line in cycles] == [1, 2, 3]
    assert [line["version"] for line in cycles] == [2, 3, 4]
    assert sum(line["episodes"] for line in cycles) == 3
    assert all(np.isfinite(line["loss"]) and line["lag_s"] >= 0.0 for line in cycles)
    text = json.dumps(lines)
    assert "npz" not in text
    assert "secret-id" not in text
    told = cycles + lines[-1:]
    assert sum(line["refused"].get("too_old", 0) for line in told) == 3
    assert sum(line["refused"].get("observation_width", 0) for line in told) == 1
    assert sum(sum(line["quarantined"].values()) for line in told) == 2


def test_at_debug_each_verdict_has_a_line_with_its_ids(lines_of):
    lines = lines_of("debug")
    check_against_the_document(lines)
    by_event = defaultdict(list)
    for line in lines:
        by_event[line["event"]].append(line)
    learned = by_event["file_learned"]
    assert [line["file"] for line in learned] == [f"good-{number}.npz" for number in range(3)]
    assert [line["cycle"] for line in learned] == [1, 2, 3]
    assert {line["reason"] for line in by_event["episode_refused"]} == {"too_old", "observation_width"}
    assert {line["client_id"] for line in by_event["episode_refused"]} == {"bot"}
    assert {line["file"] for line in by_event["file_quarantined"]} == {"notes.txt", "bad\n\x1b[31m.npz"}


def check_against_the_document(lines):
    table = documented()
    for line in lines:
        if line["logger"].startswith("learnerd"):
            levels, fields = table[line["event"]]
            assert line["level"] in levels, line
            assert line.keys() <= ALWAYS | fields, line


def test_a_library_s_warning_is_a_line_of_json_too(site):
    patch = (
        "import warnings, learnerd.daemon as d; d.run = lambda *_, **__: warnings.warn('odd\\nthing') or 0"
    )
    done = site.run_patched(patch)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "odd\nthing" in line["event"]
