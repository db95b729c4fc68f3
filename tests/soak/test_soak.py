"""Two minutes of the soak, and that its account finds what is wrong; ``-m soak`` runs the hour."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "campaign")]

from account import Account, log_violations  # noqa: E402 - the path comes first
from gauges import Versions  # noqa: E402
from journal import Journal  # noqa: E402
from live import Live, drop, episode_text  # noqa: E402
from plan import IN_CALM, plan  # noqa: E402

CONFIG = """
[policy]
observation_shape = [2]
action = { kind = "discrete", n = 2 }
hidden = [4]
"""


def run(tmp_path, *, minutes, seed):
    out = tmp_path / "soak.json"
    command = [
        sys.executable,
        FOLDER / "run.py",
        "--minutes",
        str(minutes),
        "--seed",
        str(seed),
        "--out",
        out,
    ]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate()
    finally:
        process.terminate()  # when this test ran into its timeout, no client may outlive it
        process.wait(60)
    print(said)
    assert process.returncode == 0, said[-6000:]
    return json.loads(out.read_text())


@pytest.mark.timeout(900)
def test_two_minutes(tmp_path):
    result = run(tmp_path, minutes=2, seed=1)
    assert result["violations"] == []
    assert result["account"]["learned"] > 500
    assert sum(result["account"]["quarantined"].values()) > 100
    tried = {kind.partition(",")[0] for kind in result["done"]}
    assert {"kill", "stop", "freeze", "burst", "reload", "kill_online"} <= tried
    if result["missing"]:
        pytest.skip(f"passed, but this machine cannot do all of it: {'; '.join(result['missing'])}")
    assert {"step", "fill"} <= tried


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_an_hour(tmp_path):
    assert run(tmp_path, minutes=60, seed=int(time.time()))["violations"] == []


def test_a_plan_follows_from_its_seed():
    assert plan(3, 60) == plan(3, 60) != plan(4, 60)
    events = plan(3, 60)
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    assert {event.kind for event in events if event.at_s > 0.55 * 3600} == set(IN_CALM)


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """A site on which four files were learned, one of them twice over, and two set aside."""
    live = Live(tmp_path_factory.mktemp("account"), config=CONFIG)
    live.inbox.mkdir(parents=True)
    (live.folder / "journal").mkdir()
    journal = Journal(live.folder / "journal" / "client.jsonl")
    for name in ("one", "two", "three", "four"):
        drop(live.inbox, name, episode_text(name))
        journal.deposited(f"{name}.jsonl", keys=[("bot", name, 0)])
    drop(live.inbox, "twin", episode_text("four"))
    journal.deposited("twin.jsonl", records=["refused:duplicate"], twin_of="four.jsonl")
    drop(live.inbox, "bad", "no json\n")
    journal.deposited("bad.jsonl", records=["quarantined:malformed"])
    assert live.launch("run", "--until-idle").wait(timeout=100) == 0
    return live


@pytest.fixture
def account(idle, tmp_path):
    """Judge a copy of the site, after ``tamper`` did something to it."""

    def judge(tamper=lambda folder, journal: None):
        folder = tmp_path / "site"
        shutil.copytree(idle.folder, folder)
        tamper(folder, Journal(folder / "journal" / "tampered.jsonl"))
        versions = Versions(folder / "state")
        versions.look()
        document = json.loads((folder / "state" / "status.json").read_bytes())
        document["episodes"]["pending"] = 0
        account = Account(
            folder / "spool",
            folder / "state",
            folder / "journal",
            status=document,
            added=versions.added(),
            by_daemon=versions.keys.get("daemon", Counter()),
        )
        return " / ".join([*account.violations(), *versions.wrong, *log_violations(folder / "daemon.log")])

    return judge


def test_a_site_that_is_as_it_must_be(account):
    assert account() == ""


def never_learned(folder, journal):
    journal.deposited("five.jsonl", keys=[("bot", "five", 0)])


def never_set_aside(folder, journal):
    journal.deposited("worse.jsonl", records=["quarantined:malformed"])


def no_client(folder, journal):
    (folder / "journal" / "client.jsonl").write_text("")


def waits(folder, journal):
    drop(folder / "spool" / "in", "six", episode_text("six"))


def no_archive(folder, journal):
    shutil.rmtree(folder / "spool" / "archive")


def flipped(folder, journal):
    path = next((folder / "state" / "checkpoints").glob("*2/model.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def saved_and_lost(folder, journal):
    journal.saved([("online", "seven", 0)])


def twice(folder, journal):
    """A version that adds what another one added."""
    folders = sorted((folder / "state" / "checkpoints").glob("[0-9]*"))
    shutil.copytree(folders[-1], folders[-1].with_name(f"{int(folders[-1].name) + 1:08d}"))


def counted_wrong(folder, journal):
    path = folder / "state" / "status.json"
    document = json.loads(path.read_bytes())
    document["episodes"]["quarantined"]["malformed"] += 1
    path.write_text(json.dumps(document))


def no_line_of_json(folder, journal):
    with (folder / "daemon.log").open("a") as log:
        log.write("Segmentation fault\n")


def left_aside(folder, journal):
    (folder / "state" / ".tmp-status.json.1").write_text("")


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (never_learned, "five.jsonl: 1 of its 1 good episodes were not learned"),
        (never_set_aside, "'worse.jsonl': records [], expected"),
        (no_client, "learned, but deposited by nobody"),
        (waits, "left over in in"),
        (no_archive, "learned by the daemon, but not archived"),
        (flipped, "damaged versions"),
        (saved_and_lost, "saved by the online learner, and lost"),
        (twice, "learned more than once"),
        (counted_wrong, "status: quarantined"),
        (no_line_of_json, "lines of the log that are no JSON"),
        (left_aside, "written aside and left over in state"),
    ],
)
def test_what_is_wrong_is_found(account, tamper, told):
    assert told in account(tamper)
