"""SIGHUP: every key either takes effect or is named, and nothing that waits is lost."""

import os
import pty
import re
import signal
import subprocess
import sys
import typing

import pytest

from learnerd.config import TEMPLATE, Config, ConfigError, load_config
from learnerd.reload import RESTART_NEEDED, reread

KEYS = [(name, key) for name, field in Config.model_fields.items() for key in field.annotation.model_fields]
ONE_VALUE = {("telemetry", "http"), ("telemetry", "tensorboard")}
OTHER = {
    ("gate", "level"): "0.9",
    ("paths", "spool"): '"elsewhere"',
    ("paths", "state"): '"elsewhere"',
    ("policy", "observation_shape"): "[3]",
    ("policy", "action"): '{ kind = "discrete", n = 2 }',
    ("policy", "observation"): '{ kind = "image", shape = [5, 5, 1] }',
    ("policy", "hidden"): "[8]",
    ("learner", "threads"): "2",
    ("learner", "baseline"): '"value"',
    ("learner", "optimizer"): '"sgd"',
    ("daemon", "name"): '"other"',
    ("telemetry", "http_names"): '["box.lan"]',
    ("export", "formats"): '["npz"]',
    ("batch", "reuse"): "2.0",
    ("schedule", "compact"): '"0 4 * * *"',
    ("schedule", "train"): '["0 1 * * * for 5h"]',
    ("schedule", "quiet"): '["0 18 * * mon-fri for 6h"]',
}
BEFORE = {("learner", "baseline"): '[learner]\nalgorithm = "reinforce"\nbaseline = "ema"'}
"""Where the default leaves no other value."""


def other_value(table, key):
    """A valid value in TOML that is not the default."""
    if (table, key) in OTHER:
        return OTHER[table, key]
    default = getattr(getattr(Config(), table), key)
    options = typing.get_args(Config.model_fields[table].annotation.model_fields[key].annotation)
    if isinstance(default, bool):
        return str(not default).lower()
    if isinstance(default, int):
        return str(default - 1 if default > 1 else default + 1)
    if isinstance(default, float):
        return str(default / 2 if default else 0.5)
    return f'"{next(option for option in options if option != default)}"'


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_each_key_takes_effect_or_waits_for_a_restart(tmp_path, table, key):
    if (table, key) in ONE_VALUE:
        pytest.skip("has one value only")
    file = tmp_path / "config.toml"
    file.write_text(BEFORE.get((table, key), ""))
    old = load_config(file, {})
    text = f"[{table}]\n{key} = {other_value(table, key)}\n"
    file.write_text(text)
    change = reread(old, {})
    new = load_config(file, {})
    assert getattr(getattr(new, table), key) != getattr(getattr(old, table), key)
    name = f"[{table}] {key}"
    in_force = getattr(getattr(change.config, table), key)
    if key in RESTART_NEEDED.get(table, ()):
        assert name in change.kept
        assert in_force == getattr(getattr(old, table), key)
    else:
        assert name in change.applied
        assert in_force == getattr(getattr(new, table), key)
    assert change.config.file == file


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_the_template_marks_the_keys_that_need_a_restart(table, key):
    section = re.search(rf"^\[{table}\].*?(?=^\[|\Z)", TEMPLATE.read_text(), re.MULTILINE | re.DOTALL)[0]
    head, line = section.split("\n")[0], re.search(rf"^(# )?{key} = .*", section, re.MULTILINE)[0]
    assert ("# restart" in head or "# restart" in line) == (key in RESTART_NEEDED.get(table, ()))


def test_a_file_that_is_gone_or_broken_is_refused(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("")
    old = load_config(file, {})
    file.write_text("[batch]\nmin_episodes = 0")
    with pytest.raises(ConfigError, match=r"\[batch\] min_episodes is 0; accepted: an integer"):
        reread(old, {})
    file.unlink()
    with pytest.raises(ConfigError, match="not readable"):
        reread(old, {})


def test_a_reload_takes_effect_and_keeps_what_waits(site, drop, manager):
    """One daemon: a reload that applies, one that names, one that is refused, and the one that mends it."""
    site.configure("[batch]\nmax_wait_s = 3600.0")
    process = site.start()
    manager.wait("READY=1")
    for _ in range(3):
        drop()
    site.wait(lambda: len(site.files("claimed")) == 3, what="three claims")

    site.configure("[batch]\nmax_wait_s = 3600.0\nmin_episodes = 3\n[learner]\nthreads = 2")
    assert manager.reload(process) == ["RELOADING=1", "READY=1"]
    site.wait(lambda: site.current() == 1, what="the three to be learned")
    assert sorted(site.ledger_ids()) == ["episode-1", "episode-2", "episode-3"]
    status = site.status()
    (notice,) = [alarm for alarm in status["alarms"] if alarm["id"] == "restart_needed"]
    assert "[learner] threads" in notice["message"]
    assert notice["level"] == "notice"
    assert status["daemon"]["pid"] == process.pid
    assert '"applied": ["[batch] min_episodes"]' in site.log()

    site.configure("[batch]\nmin_episodes = 0")
    assert manager.reload(process) == ["RELOADING=1", "READY=1"]
    problem = "[batch] min_episodes is 0; accepted: an integer of episodes >= 1"
    assert problem in site.log()
    for _ in range(3):
        drop()
    site.wait(lambda: site.current() == 2, what="three more, as the old configuration says")

    site.configure("[batch]\nmin_episodes = 1")
    status = site.status()
    (alarm,) = [alarm for alarm in status["alarms"] if alarm["id"] == "config_refused"]
    assert problem in alarm["message"]
    assert site.learnerd("status").returncode == 4
    assert manager.reload(process) == ["RELOADING=1", "READY=1"]
    assert site.learnerd("status").returncode == 0
    drop()
    site.wait(lambda: site.current() == 3, what="a batch of one")
    assert site.stop(process) == 0
    assert len(site.ledger_ids()) == 7


def test_a_reload_waits_for_the_update_under_way_and_a_stop_wins(site, drop, manager):
    hold = site.folder / "hold"
    hold.touch()
    site.configure("[batch]\nmin_episodes = 1")
    process = site.start(patch=HELD.format(hold=str(hold)))
    manager.wait("READY=1")
    drop()
    site.wait(lambda: "update_held" in site.log(), what="the update to begin")
    site.configure("[batch]\nmin_episodes = 2\nmax_wait_s = 3600.0")
    process.send_signal(signal.SIGHUP)
    manager.wait("RELOADING=1")
    hold.unlink()
    manager.wait("READY=1")
    assert site.current() == 1
    drop()
    site.wait(lambda: len(site.files("claimed")) == 1, what="one claim")
    process.send_signal(signal.SIGHUP)
    assert site.stop(process) == 0
    assert sorted(site.ledger_ids()) == ["episode-1", "episode-2"]


HELD = """
import pathlib, time
from policies.learner import Learner
from learnerd import cycle
original = cycle.Cycle._learn
def _learn(*a, **k):
    print("update_held", file=sys.stderr, flush=True)
    while pathlib.Path("{hold}").exists():
        time.sleep(0.02)
    return original(*a, **k)
cycle.Cycle._learn = _learn
"""

ON_A_TERMINAL = """
import signal
from learnerd.requests import Requests
requests = Requests()
requests.listen(reloads=True)
signal.raise_signal(signal.SIGHUP)
assert requests.reload and not requests.stop
print("reload", flush=True)
while not requests.stop:
    requests.wake.wait()
    requests.wake.clear()
"""


def test_a_terminal_that_is_closed_stops_and_a_signal_reloads():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ON_A_TERMINAL])
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_run_that_ends_by_itself_is_ended_by_sighup():
    code = (
        "import signal; from learnerd.requests import Requests; requests = Requests()\n"
        "requests.listen(reloads=False); signal.raise_signal(signal.SIGHUP)\n"
        "assert requests.stop and not requests.reload and 0 < requests.stop_left_s(60.0) <= 60.0"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
