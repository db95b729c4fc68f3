"""Every alarm: its cause is brought about, it is seen with what to do, and it ends with its cause.

To add one: ``@register("its_id")`` above a play in a file of this folder, a row in ``docs/operations.md``.
"""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest
from rehearsal.rehearsals import REHEARSALS

from learnerd.config import Config
from learnerd.learning_alarms import BAD_UPDATES
from learnerd.status_file import live_document

ROOT = Path(__file__).parents[3]
OPERATIONS = (ROOT / "learnerd" / "docs" / "operations.md").read_text()
RAISING = {"raise_alarm", "failure", "_raise", "_later"}
COMPUTED = {"history_not_written", "tensorboard_not_written", *(alarm for alarm, *_ in BAD_UPDATES.values())}
"""Ids that stand nowhere as the first argument of a call that raises an alarm."""
PATIENCE_S = 100.0

for path in sorted(Path(__file__).parent.glob("[!t]*.py")):
    importlib.import_module(f"rehearsal.{path.stem}")


def in_the_code():
    """Ids: literals in calls that raise an alarm, ``id`` beside ``remedy``, and those that are computed."""
    for path in (ROOT / "learnerd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield from literals(named_alarm(node))
            if isinstance(node, ast.Dict) and {"id", "remedy"} <= set(literals(node.keys)):
                yield from literals(v for k, v in zip(node.keys, node.values, strict=True) if k.value == "id")
    yield from COMPUTED


def named_alarm(call):
    """The argument that is the id: ``id=``, of methods the first, of ``_sync(telemetry, …)`` the second."""
    words = {word.arg: word.value for word in call.keywords}
    if {"id", "remedy"} <= words.keys():
        return [words["id"]]
    if isinstance(call.func, ast.Attribute) and call.func.attr in RAISING:
        return call.args[:1]
    return call.args[1:2] if isinstance(call.func, ast.Name) and call.func.id == "_sync" else []


def literals(nodes):
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def documented():
    section = OPERATIONS.partition("## Every alarm and what to do")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))


def test_every_alarm_is_rehearsed():
    assert {rehearsal.alarm for rehearsal in REHEARSALS} == set(in_the_code())


def test_every_alarm_is_documented():
    assert documented() == set(in_the_code())


def test_the_sample_is_small():
    assert 0 < sum(rehearsal.sample for rehearsal in REHEARSALS) <= 5


CASES = [pytest.param(one, id=one.name, marks=() if one.sample else pytest.mark.slow) for one in REHEARSALS]


@pytest.fixture
def alarms(site):
    """What stands now, by id, as ``learnerd status`` sees it."""

    def read():
        config = Config(
            paths={"spool": site.folder / "spool", "state": site.state}
        )  # not the file: it may be wrong
        return {alarm["id"]: alarm for alarm in live_document(config)["alarms"]}

    site.alarm_ids = lambda: set(read())
    return read


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rehearsal", CASES)
def test_it_is_seen_with_what_to_do_and_ends_with_its_cause(rehearsal, site, drop, alarms):
    play = rehearsal.play(site, drop)
    next(play)

    def stands():
        return alarms().get(rehearsal.alarm, {"level": None}).get("level", "alarm") == rehearsal.level

    site.wait(stands, what=rehearsal.alarm, timeout_s=PATIENCE_S)
    alarm = alarms()[rehearsal.alarm]
    check_what_an_operator_sees(site, alarm)
    next(play)
    if rehearsal.ends:
        site.wait(lambda: not stands(), what="its end", timeout_s=PATIENCE_S)
    else:
        assert stands()
    play.close()
    check_the_log(site, rehearsal, ended=rehearsal.alarm not in alarms())


def check_what_an_operator_sees(site, alarm):
    """Both sentences, and an exit code that a script can go by."""
    assert alarm["message"].strip()
    assert alarm["remedy"].strip()
    shown = site.learnerd("status")
    if alarm["id"] == "config_refused":  # the file cannot be used by ``status`` either, which says so
        assert shown.returncode == 6
        return
    assert alarm["message"][:30] in shown.stdout
    assert alarm["remedy"][:60] in shown.stdout
    if alarm.get("level", "alarm") == "alarm":
        assert shown.returncode == 4


def check_the_log(site, rehearsal, *, ended):
    """One line when it came, one when it went; ``status_stale`` is seen from outside alone."""
    lines = [json.loads(line) for line in (site.folder / "daemon.log").read_text().splitlines()]
    events = [line["event"] for line in lines if line.get("alarm") == rehearsal.alarm]
    if rehearsal.alarm != "status_stale":
        assert "alarm_raised" in events
        if ended and rehearsal.alarm != "policy_inferred":  # which ends with a restart
            assert events[-1] == "alarm_cleared"
