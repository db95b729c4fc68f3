import json
import os
import resource
import subprocess
import sys
import tomllib
import types
from importlib import metadata

import pytest

from learnerd import cli
from learnerd.cli.options import counted
from learnerd.config import TEMPLATE, load_config
from learnerd.errors import LearnerdError
from policies.errors import LedgerDamaged, NewerRelease, StoreBusy

DAEMON = """
import sys, time
from pathlib import Path
from learnerd.status_file import new_document, write_status
state, alarms = sys.argv[2], [{"id": "x", "since": 1.0, "message": "disk\\x1b[31m", "remedy": "mend"}]
document = new_document(daemon={"state": state}, alarms=alarms if sys.argv[3] == "alarm" else [])
write_status(Path(sys.argv[1]), document, now=time.time() - float(sys.argv[4]))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def learnerd(tmp_path):
    """Run a command as a process of its own, in a folder of its own."""

    def run(*arguments, env=None, cwd=tmp_path):
        return subprocess.run(
            [sys.executable, "-m", "learnerd", *arguments],
            env={**os.environ, "COLUMNS": "120", "HOME": str(tmp_path), **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture
def site(tmp_path):
    (tmp_path / "config.toml").write_text("")
    for name in ("spool/in", "state"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def living(site):
    """A process that has written the status file and waits."""
    processes = []

    def start(state="running", alarm="none", silent_s=0):
        arguments = [sys.executable, "-c", DAEMON, str(site / "state"), state, alarm, str(silent_s)]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout.readline() == b"written\n"
        return process

    yield start
    for process in processes:
        process.communicate()


def replace_daemon(monkeypatch, run):
    """Without loading the real one, which loads torch."""
    monkeypatch.setitem(sys.modules, "learnerd.daemon", types.SimpleNamespace(run=run))


def write_config(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)


def test_without_a_command_or_with_a_wrong_one(learnerd):
    assert learnerd().returncode == 2
    assert learnerd("bogus").returncode == 2
    assert learnerd("versions", "show", "zero").returncode == 2
    assert learnerd("run", "--once", "--until-idle").returncode == 2


def test_the_version_is_told(learnerd):
    result = learnerd("--version")
    assert (result.returncode, result.stdout) == (0, f"learnerd {metadata.version('learnerd')}\n")


def test_help_lists_every_command(learnerd):
    result = learnerd("--help")
    assert result.returncode == 0
    for name in cli.COMMANDS:
        assert f" {name} " in result.stdout


def test_help_is_broken_where_the_terminal_ends(learnerd):
    shown = learnerd("replay", "--help", env={"COLUMNS": "400"}).stdout
    assert (
        "With --verify: are recorded versions what their episodes make? With --set or --tune: what" in shown
    )
    assert "settings have learned from them? See docs/replay.md and docs/whatif.md." in shown
    (line,) = [line for line in shown.splitlines() if "With --verify: are recorded" in line]
    assert line.rstrip().endswith("docs/whatif.md.")


@pytest.mark.parametrize("arguments", [("status", "--json"), ("run",), ("config", "check")])
def test_a_bad_config_is_exit_6_and_one_line(learnerd, tmp_path, arguments):
    write_config(tmp_path, '[admission]\nmax_age_s = "1h"\n')
    result = learnerd(*arguments)
    assert result.returncode == 6
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for part in ("config.toml", "[admission]", "max_age_s", '"1h"', "seconds"):
        assert part in result.stderr


def test_no_config_is_exit_6_and_says_what_to_do(learnerd):
    result = learnerd("status")
    assert result.returncode == 6
    assert "learnerd setup" in result.stderr


def test_config_option_before_and_after_the_command(learnerd, tmp_path):
    (tmp_path / "a.toml").write_text("[batch]\nmin_episodes = 3")
    (tmp_path / "b.toml").write_text("[batch]\nmin_episodes = 4")
    before = learnerd("--config", "a.toml", "config", "show", "--json")
    after = learnerd("config", "show", "--json", "--config", "b.toml")
    both = learnerd("--config", "a.toml", "config", "show", "--json", "--config", "b.toml")
    assert [json.loads(r.stdout)["batch"]["min_episodes"] for r in (before, after, both)] == [3, 4, 4]


def test_config_check(learnerd, site):
    result = learnerd("config", "check")
    assert (result.returncode, result.stdout) == (0, f"{site / 'config.toml'}: ok\n")


def test_config_show_is_a_config_file_with_the_same_effect(learnerd, tmp_path):
    write_config(tmp_path, '[policy]\naction = { kind = "continuous", shape = [2] }\n[learner]\nthreads = 2')
    result = learnerd("config", "show", env={"LEARNERD_BATCH_MAX_WAIT_S": "0.5"})
    shown = tmp_path / "shown.toml"
    shown.write_text(result.stdout)
    config = load_config(shown, {})
    assert config.batch.max_wait_s == 0.5
    assert (
        config.model_dump()
        == load_config(tmp_path / "config.toml", {"LEARNERD_BATCH_MAX_WAIT_S": "0.5"}).model_dump()
    )


def test_status_of_what_never_ran(learnerd, site):
    result = learnerd("status", "--json")
    assert result.returncode == 3
    document = json.loads(result.stdout)
    assert list(document) == [
        "schema",
        "daemon",
        "policy",
        "episodes",
        "learning",
        "latency",
        "disk",
        "gate",
        "alarms",
    ]
    assert document["daemon"]["state"] == "never"
    human = learnerd("status")
    assert human.returncode == 3
    assert "never ran" in human.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("running",), 0, "running"),
        (("draining",), 0, "stopping"),
        (("running", "alarm"), 4, r"disk\x1b[31m"),
        (("running", "none", 61), 4, "has not reported for 6"),
        (("stopped",), 3, "stopped, since "),
    ],
)
def test_status_of_a_living_process(learnerd, living, arguments, code, said):
    living(*arguments)
    result = learnerd("status")
    assert result.returncode == code, result.stdout
    assert said in result.stdout
    assert "\x1b" not in result.stdout


def test_status_of_a_killed_process_says_since_when(learnerd, living):
    process = living()
    process.kill()
    process.wait()
    result = learnerd("status")
    assert result.returncode == 3
    assert "last sign of life" in result.stdout


def test_status_starts_fast(learnerd, site):
    """Processor time, as the machine is shared: the best of three starts."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        learnerd("status")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5


@pytest.mark.parametrize("mode", ["", "--once", "--until-idle"])
def test_run_hands_the_mode_to_the_daemon_and_its_code_back(site, monkeypatch, mode):
    seen = []
    replace_daemon(monkeypatch, lambda config, *, mode: seen.append((config.file, mode)) or 9)
    monkeypatch.setattr("learnerd.log.configure", lambda **options: seen.append(options))
    monkeypatch.setattr(
        sys, "argv", ["learnerd", "run", "--config", str(site / "config.toml"), *filter(None, [mode])]
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 9
    expected = mode.removeprefix("--").replace("-", "_") or "forever"
    assert seen == [{"form": "auto", "level": "info"}, (site / "config.toml", expected)]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RuntimeError("what\nnow"), 1, "learnerd: RuntimeError: what now (LEARNERD_DEBUG=1 shows where)\n"),
        (LearnerdError("not today"), 1, "learnerd: not today\n"),
        (StoreBusy(path="lock", timeout_s=1.0), 5, "learnerd: StoreBusy: lock is held"),
        (NewerRelease(path="m.json", schema=2, accepted=1), 7, "learnerd: NewerRelease: m.json: schema is 2"),
        (LedgerDamaged(path="run", reason="is torn"), 7, "learnerd: LedgerDamaged: run: is torn"),
    ],
)
def test_an_error_is_one_line(site, monkeypatch, capsys, *, error, code, text):
    def fail(config, *, mode):
        raise error

    replace_daemon(monkeypatch, fail)
    monkeypatch.setattr("learnerd.log.configure", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["learnerd", "run", "--config", str(site / "config.toml")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(text)
    monkeypatch.setenv("LEARNERD_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main()


def test_setup_writes_a_config_its_folders_and_says_what_is_next(learnerd, tmp_path):
    assert learnerd("setup", cli.__file__).returncode == 2
    result = learnerd("setup", "my site")
    assert result.returncode == 0, result.stdout + result.stderr
    site = tmp_path / "my site"
    assert (site / "config.toml").read_bytes() == TEMPLATE.read_bytes()
    assert not (site / "config.toml").is_symlink()
    for name in ("spool/in", "spool/claimed", "spool/archive", "state/checkpoints", "state/lock"):
        assert (site / name).is_dir()
    assert "learnerd run --config 'my site/config.toml'" in result.stdout
    assert "learnerd status --config 'my site/config.toml'" in result.stdout
    for check in ("python", "torch", "spool", "state", "renames", "fsync", "inotify", "pipeline"):
        assert f" {check}: " in result.stdout
    assert not [path for path in site.rglob("*") if path.is_file() and path.name != "config.toml"]


def test_setup_keeps_a_config_that_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("learnerd.cli.setup.examine", lambda *_: iter(()))
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, '[paths]\nspool = "elsewhere"')
    monkeypatch.setattr(sys, "argv", ["learnerd", "setup"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert "stays as it is" in capsys.readouterr().out
    assert tomllib.loads((tmp_path / "config.toml").read_text())["paths"] == {"spool": "elsewhere"}
    assert (tmp_path / "elsewhere" / "in").is_dir()
    monkeypatch.setattr(sys, "argv", ["learnerd", "setup", "--force"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert (tmp_path / "config.toml").read_bytes() == TEMPLATE.read_bytes()
    assert "elsewhere" in (tmp_path / "config.toml.bak").read_text()
    assert "  learnerd run\n" in capsys.readouterr().out


def test_setup_reports_a_broken_config_that_is_there(learnerd, tmp_path):
    write_config(tmp_path, "[batch]\nmin_episodes = 0")
    assert learnerd("setup").returncode == 6


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12345, "12,345 files")]
)
def test_one_thing_is_not_called_things(number, text):
    assert counted(number, "file") == text
