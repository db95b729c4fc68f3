"""What an operator and a bot do, inside the container; writes what it saw as JSON."""

import json
import os
import pwd
import subprocess
import sys
import time
import traceback
from pathlib import Path

SITE = Path("/var/lib/learnerd/bot")
INBOX, STATE = SITE / "spool/in", SITE / "state"
UNIT = "learnerd@bot.service"
SPACES = '[policy]\nobservation_shape = [3]\naction = { kind = "discrete", n = 2 }\n'
PATIENCE_S = 90.0

python, out = sys.argv[1], Path(sys.argv[2])
seen = {}


def sh(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print("$", *command, "->", done.returncode, done.stdout, done.stderr, flush=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}: {done.returncode} {done.stdout} {done.stderr}")
    return done


def show():
    names = "ActiveState,SubState,MainPID,NRestarts,StatusText,Result"
    lines = sh("systemctl", "show", UNIT, "--property", names).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def wait(condition, what):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.1)


def as_user(name, function, *arguments):
    """Call ``function`` in a process of that user; return what it returns."""
    user = pwd.getpwnam(name)
    read, write = os.pipe()
    if os.fork() == 0:
        os.initgroups(name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        os.umask(0o027)
        try:
            said = function(*arguments)
        except OSError as error:
            said = type(error).__name__
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = json.loads(pipe.read())
    os.wait()
    return said


def drop(name):
    header = {"episode_id": name, "client_id": "bot", "policy_version": 0, "ended_at": time.time()}
    step = {"obs": [0.1, 0.2, 0.3], "action": 1, "reward": 1.0, "logp": -0.69}
    end = {"final_obs": [0.0, 0.0, 0.0], "terminated": True, "truncated": False}
    aside = INBOX / f".tmp-{name}"
    aside.write_text("".join(json.dumps(line) + "\n" for line in (header, step, step, end)))
    aside.rename(INBOX / f"{name}.jsonl")


def half_a_file():
    (INBOX / ".tmp-half").write_text("{}")


def listing():
    return len(list(INBOX.iterdir()))


def archive():
    return len(list((SITE / "spool/archive").iterdir()))


def current():
    return (STATE / "CURRENT").read_text().strip()


def read_version():
    folder = STATE / "checkpoints" / current()
    return len((folder / "model.safetensors").read_bytes()) > 0


def learned():
    return json.loads((STATE / "checkpoints" / current() / "manifest.json").read_text())["episodes_total"]


def configure(text):
    (SITE / "config.toml").write_text(SPACES + text)


def set_up():
    sh(python, "-m", "learnerd", "service", "install")
    sh("systemd-sysusers", "learnerd.conf")
    sh(python, "-m", "learnerd", "setup", str(SITE))
    sh("systemd-tmpfiles", "--create", "learnerd.conf")
    for name in ("bot", "rival"):
        sh("useradd", "--no-create-home", "--groups", "learnerd", name)
    drop_in = Path(f"/etc/systemd/system/{UNIT}.d/test.conf")
    drop_in.parent.mkdir()
    lines = ("WatchdogSec=10", "RestartSec=1", f"Environment=PYTHONPATH={os.environ['PYTHONPATH']}")
    drop_in.write_text("[Service]\n" + "\n".join(lines))
    sh("systemctl", "daemon-reload")


def scenario():
    set_up()
    configure("[batch]\nmin_episodes = 2\nmax_wait_s = 3600.0\n")
    seen["start"] = sh("systemctl", "start", UNIT).returncode
    seen["started"] = show()
    seen["first_version"] = current()

    as_user("bot", half_a_file)
    seen["rights"] = {
        "bot lists": as_user("bot", listing),
        "rival removes": as_user("rival", os.unlink, str(INBOX / ".tmp-half")),
        "nobody passes": as_user("nobody", read_version),
        "bot reads a version": as_user("bot", read_version),
        "bot looks into the archive": as_user("bot", archive),
    }
    for name in ("a", "b"):
        as_user("bot", drop, name)
    wait(lambda: learned() == 2, "the first two episodes")

    configure("[batch]\nmin_episodes = 1\n")
    seen["reload"] = sh("systemctl", "reload", UNIT).returncode
    wait(lambda: show()["SubState"] == "running", "the reload")
    as_user("bot", drop, "c")
    wait(lambda: "3 episodes" in show()["StatusText"], "a batch of one, as the new configuration says")
    seen["reloaded"] = show()

    sh("kill", "-STOP", seen["reloaded"]["MainPID"])
    wait(lambda: show()["NRestarts"] == "1" and show()["SubState"] == "running", "the watchdog")
    seen["restarted"] = show()
    as_user("bot", drop, "d")
    wait(lambda: learned() == 4, "an episode after the restart")

    configure("[batch]\nmax_wait_s = 3600.0\n")
    sh("systemctl", "reload", UNIT)
    wait(lambda: show()["SubState"] == "running", "the second reload")
    for name in ("e", "f", "g"):
        as_user("bot", drop, name)
    wait(lambda: len(list((SITE / "spool/claimed").glob("*/*"))) == 3, "three claims")
    seen["stop"] = sh("systemctl", "stop", UNIT).returncode
    seen["stopped"] = show()
    seen["learned"] = learned()

    sh("chown", "--recursive", "4321:4321", str(SITE))  # as copied from a machine with other user numbers
    configure("[batch]\nmin_episodes = 1\n")
    seen["start elsewhere"] = sh("systemctl", "start", UNIT).returncode
    as_user("bot", drop, "h")
    wait(lambda: learned() == 8, "an episode on the other machine")
    folders = (SITE, INBOX, STATE, STATE / "checkpoints" / current())
    seen["owners"] = sorted({folder.owner() for folder in folders})
    seen["stop elsewhere"] = sh("systemctl", "stop", UNIT).returncode


try:
    scenario()
except Exception:  # noqa: BLE001 - whatever it was, the one outside is to see it
    seen["error"] = traceback.format_exc()
    seen["journal"] = sh("systemctl", "status", UNIT, check=False).stdout
    seen["log"] = sh("journalctl", "--no-pager", "--lines=60", check=False).stdout
(out / "seen.json").write_text(json.dumps(seen))
