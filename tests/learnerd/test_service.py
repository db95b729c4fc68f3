import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from learnerd import service
from learnerd.config import Config

ROOT = Path(__file__).parents[2]
SYSTEM = ROOT / "systemd" / "learnerd@.service"
USER = ROOT / "systemd" / "user" / "learnerd@.service"
MAX_EXPOSURE = 7  # tenths

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: units UNVERIFIED"
)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def installation(command=("/usr/bin/learnerd",), folders=("/usr",), systemd=252):
    return service.Installation(command=command, folders=tuple(map(Path, folders)), systemd=systemd)


def read(text):
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read_string(text)
    return unit


@pytest.fixture(params=["system", "gpu", "http", "user", "system-reload", "home"])
def printed(request, tmp_path):
    """A unit file with what `learnerd service print` says."""
    newer = 255 if request.param == "system-reload" else 252
    folders = [sys.prefix] if request.param == "home" else ["/usr"]
    command = [sys.executable, "-m", "learnerd"]
    found = installation(command, folders, newer)
    text = service.unit(
        found, user=request.param == "user", gpu=request.param == "gpu", http=request.param == "http"
    )
    file = tmp_path / service.UNIT
    file.write_text(text)
    return file


@systemd
@pytest.mark.parametrize("printed", ["system", "gpu", "http", "user", "home"], indirect=True)
def test_systemd_accepts_what_is_printed(printed):
    result = run("systemd-analyze", "verify", str(printed))
    complaints = [line for line in result.stderr.splitlines() if "learnerd" in line]
    assert (result.returncode, complaints) == (0, [])


@systemd
@pytest.mark.parametrize("file", [SYSTEM, USER], ids=["system", "user"])
def test_systemd_accepts_the_files_of_the_repository(file):
    result = run("systemd-analyze", "verify", str(file))
    complaints = [line for line in result.stderr.splitlines() if "learnerd" in line]
    assert (result.returncode, complaints) == (0, [])


@systemd
@pytest.mark.parametrize("printed", ["system", "home"], indirect=True)
def test_the_sandbox_leaves_little_exposed(printed):
    command = ("systemd-analyze", "security", "--offline=true")
    assert run(*command, f"--threshold={MAX_EXPOSURE}", str(printed)).returncode == 0
    assert run(*command, "--threshold=1", str(printed)).returncode == 1  # that the gate does gate


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="no systemd-sysusers, or not root: sysusers.d and tmpfiles.d UNVERIFIED",
)
def test_systemd_makes_the_user_and_the_rights(tmp_path):
    texts = service.files(installation(), user=False, gpu=False, env={})
    service.install(texts, root=tmp_path)
    inbox = tmp_path / "var/lib/learnerd/bot/spool/in"
    archive = inbox.with_name("archive")
    for folder in (inbox, archive):
        folder.mkdir(parents=True)
    assert run("systemd-sysusers", f"--root={tmp_path}", "learnerd.conf").returncode == 0
    assert "learnerd:" in (tmp_path / "etc/passwd").read_text()
    made = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", "learnerd.conf")
    assert made.returncode == 0, made.stderr
    assert [oct(folder.stat().st_mode & 0o7777) for folder in (inbox, archive, inbox.parent)] == [
        "0o3730",
        "0o700",
        "0o710",
    ]


@pytest.mark.parametrize("file", [SYSTEM, USER], ids=["system", "user"])
def test_units_wait_for_ready_and_do_not_restart_on_a_bad_config(file):
    part = read(file.read_text())["Service"]
    assert (part["Type"], part["NotifyAccess"]) == ("notify", "main")
    assert part["Restart"] == "on-failure"
    assert part["RestartPreventExitStatus"].split() == ["6", "7"]
    assert "OMP_WAIT_POLICY=PASSIVE" in part["Environment"]
    assert int(part["WatchdogSec"]) > 0
    decode_s = 30
    assert int(part["TimeoutStopSec"]) > Config().daemon.drain_s + decode_s


def test_repository_and_package_have_the_same_files():
    link = ROOT / "systemd"
    assert link.is_symlink()
    assert link.resolve() == service.TEMPLATES.resolve()


def test_a_newer_systemd_waits_for_a_reload_by_itself():
    older = read(service.unit(installation(systemd=252), user=False, gpu=False))["Service"]
    newer = read(service.unit(installation(systemd=253), user=False, gpu=False))["Service"]
    assert (older["Type"], older["ExecReload"]) == ("notify", "/bin/kill -HUP $MAINPID")
    assert newer["Type"] == "notify-reload"
    assert "ExecReload" not in newer


def test_an_installation_that_the_sandbox_would_hide_is_bound_into_it():
    there = ("/home/me/venv", "/home/me/venv/lib", "/opt/python", "/root/my src")
    found = installation(command=("/home/me/venv/bin/learnerd",), folders=there)
    part = read(service.unit(found, user=False, gpu=False))["Service"]
    assert part["ExecStart"].startswith("/home/me/venv/bin/learnerd run --config %S/learnerd/%i/")
    assert part["ProtectHome"] == "tmpfs"
    assert part["BindReadOnlyPaths"] == '/home/me/venv "/root/my src"'
    plain = service.unit(installation(), user=False, gpu=False)
    assert "BindReadOnlyPaths" not in plain
    assert "BindReadOnlyPaths" not in service.unit(found, user=True, gpu=False)


def test_words_with_a_meaning_for_systemd_are_escaped():
    found = installation(command=("/opt/100%/my $venv/bin/learnerd",))
    part = read(service.unit(found, user=False, gpu=False))["Service"]
    assert part["ExecStart"].startswith('"/opt/100%%/my $$venv/bin/learnerd" run')


@pytest.mark.parametrize(
    ("which", "user", "setting", "opened"),
    [
        ("gpu", False, "PrivateDevices", "no"),
        ("http", False, "PrivateNetwork", "no"),
        ("http", True, "RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
    ],
)
def test_what_the_sandbox_hides_is_opened_by_a_drop_in_alone(which, user, setting, opened):
    wanted = {"gpu": False, "http": False, which: True}
    both = read(service.unit(installation(), user=user, **wanted))["Service"]
    assert both[setting] == opened
    texts = service.files(installation(), user=user, **wanted, env={"HOME": "/home/me"})
    (drop_in,) = [path for path in texts if path.name == f"{which}.conf"]
    unit = drop_in.parent.with_suffix("")
    assert unit.name == service.UNIT
    assert read(texts[unit])["Service"][setting] != opened
    assert read(texts[drop_in])["Service"][setting] == opened


def test_installing_again_changes_nothing_and_what_was_changed_is_kept(tmp_path):
    texts = service.files(installation(), user=False, gpu=True, env={})
    written = service.install(texts, root=tmp_path)
    assert len(written) == 4
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in written)
    assert service.install(texts, root=tmp_path) == []

    later = {path: text + "# a later release\n" for path, text in texts.items()}
    assert service.install(later, root=tmp_path) == written  # nobody had changed them

    written[0].write_text(written[0].read_text().replace("Nice=10", "Nice=5"))
    before = {path: path.read_text() for path in written}
    with pytest.raises(service.NotInstalledError) as caught:
        service.install(texts, root=tmp_path)
    assert caught.value.paths == (written[0],)
    assert str(written[0]) in str(caught.value)
    assert {path: path.read_text() for path in written} == before
    assert service.install(texts, root=tmp_path, force=True) == written


def test_a_file_that_learnerd_never_wrote_is_kept(tmp_path):
    texts = service.files(installation(), user=False, gpu=False, env={})
    foreign = tmp_path / "etc/sysusers.d/learnerd.conf"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("u learnerd 77\n")
    with pytest.raises(service.NotInstalledError, match="changed since"):
        service.install(texts, root=tmp_path)
    assert list(tmp_path.rglob("*.service")) == []


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "etc").write_text("a file")
    texts = service.files(installation(), user=False, gpu=False, env={})
    with pytest.raises(service.NotInstalledError, match="sudo, or --user"):
        service.install(texts, root=tmp_path)


def test_commands_print_and_install(tmp_path):
    learnerd = (sys.executable, "-m", "learnerd", "service")
    printed = run(*learnerd, "print", "--gpu", cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert f"ExecStart={Path(sys.executable).parent}" in printed.stdout
    first = run(*learnerd, "install", "--root", str(tmp_path), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "systemctl enable --now learnerd@mybot" in first.stdout
    unit = tmp_path / "etc/systemd/system" / service.UNIT
    assert f"wrote {unit}" in first.stdout
    again = run(*learnerd, "install", "--root", str(tmp_path), cwd=tmp_path)
    assert f"is as it should be: {unit}" in again.stdout
    unit.write_text("[Service]\n")
    refused = run(*learnerd, "install", "--root", str(tmp_path), cwd=tmp_path)
    assert refused.returncode == 1
    assert f"learnerd: {unit}: changed" in refused.stderr
    user = service.files(installation(), user=True, gpu=False, env={"HOME": "/home/me"})
    assert list(user) == [Path("/home/me/.config/systemd/user") / service.UNIT]


def test_readme_holds_the_command_that_ci_runs():
    script = "sed -n '/<!-- test-command -->/,/<!-- end -->/p' README.md | grep -v -e '^<!--' -e '^```'"
    assert script in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert found.count("\n") == 1
    assert "-e '.[test]'" in found
    assert " -m pytest" in found
