"""Service: the files that systemd needs, with the paths of this installation, and where they go.

Each begins with the hash of the rest: one that nobody has changed may be replaced by a later release's.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from learnerd.errors import LearnerdError

TEMPLATES = Path(__file__).with_name("systemd")
UNIT = "learnerd@.service"
DROP_INS = f"{UNIT}.d"
MARK = re.compile(r"# learnerd \S+ wrote this; unchanged: ([0-9a-f]{64})\n")

NOTIFY_RELOAD = 253
"""The release of systemd that brought Type=notify-reload."""

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - named, not used
"""What the sandbox of the system's unit hides: an installation there is bound into it."""


class NotInstalledError(LearnerdError):
    """Files that somebody has changed, or that may not be written; ``paths`` names them."""

    def __init__(self, paths: Iterable[Path], why: str) -> None:
        self.paths = tuple(paths)
        super().__init__(f"{', '.join(map(str, self.paths))}: {why}")


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What the files must know of this installation.

    Attributes:
        command: how it is called.
        folders: what it consists of.
        systemd: the release that is installed here; 0 when there is none.
    """

    command: tuple[str, ...]
    folders: tuple[Path, ...]
    systemd: int

    @classmethod
    def found(cls) -> "Installation":
        """This one."""
        script = Path(sys.executable).with_name("learnerd")
        command = (str(script),) if script.exists() else (sys.executable, "-m", "learnerd")
        places = (sys.prefix, sys.base_prefix, Path(__file__).parents[1])
        return cls(command=command, folders=tuple(Path(place) for place in places), systemd=systemd_release())


def systemd_release() -> int:
    """The release of systemd on this machine; 0 when there is none."""
    program = shutil.which("systemctl")
    if program is None:
        return 0
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.match(r"systemd (\d+)", said.stdout)
    return int(found[1]) if found else 0


def unit(installation: Installation, *, user: bool, gpu: bool, http: bool = False) -> str:
    """The unit's text; those of its drop-ins follow, as systemd would read them."""
    return "\n".join([_unit(installation, user=user), *_drop_ins(user=user, gpu=gpu, http=http).values()])


def files(
    installation: Installation, *, user: bool, gpu: bool, http: bool = False, env: Mapping[str, str]
) -> dict[Path, str]:
    """Every file that ``install`` writes, with its text."""
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config")
    units = home / "systemd/user" if user else Path("/etc/systemd/system")
    drop_ins = _drop_ins(user=user, gpu=gpu, http=http)
    texts = {
        units / UNIT: _unit(installation, user=user),
        **{units / DROP_INS / name: text for name, text in drop_ins.items()},
    }
    return (
        texts
        if user
        else {
            **texts,
            Path("/etc/sysusers.d/learnerd.conf"): _template("sysusers.conf"),
            Path("/etc/tmpfiles.d/learnerd.conf"): _template("tmpfiles.conf"),
        }
    )


def install(texts: Mapping[Path, str], *, root: Path = Path("/"), force: bool = False) -> list[Path]:
    """Write ``texts`` below ``root``, all of them or none; return those that were not there as they are.

    Raises:
        NotInstalledError: somebody has changed files, and ``force`` is not given; or they cannot be written.
    """
    wanted = {root / path.relative_to("/"): _marked(text) for path, text in texts.items()}
    try:
        found = {path: path.read_text(encoding="utf-8") for path in wanted if path.exists()}
        changed = [path for path, text in found.items() if text != wanted[path] and not _is_ours(text)]
        if changed and not force:
            raise NotInstalledError(changed, "changed since learnerd wrote it; --force replaces it")
        stale = [path for path, text in wanted.items() if found.get(path) != text]
        for path in stale:
            _write(path, wanted[path])
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise NotInstalledError(wanted, f"{why}; sudo, or --user, or --root DIR") from None
    return stale


def _drop_ins(*, user: bool, gpu: bool, http: bool) -> dict[str, str]:
    """Name -> text; a user's own service manager hides no devices."""
    wanted = {"gpu.conf": gpu and not user, "http.conf": http}
    return {name: _template(name) for name, is_wanted in wanted.items() if is_wanted}


def _unit(installation: Installation, *, user: bool) -> str:
    text = _template(f"user/{UNIT}" if user else UNIT)
    command = " ".join(map(_quoted, installation.command))
    text = text.replace("ExecStart=/usr/bin/env learnerd ", f"ExecStart={command} ")
    if installation.systemd >= NOTIFY_RELOAD:
        text = text.replace("Type=notify\n", "Type=notify-reload\n")
        text = text.replace("ExecReload=/bin/kill -HUP $MAINPID\n", "")
    hidden = [] if user else _hidden(installation.folders)
    if hidden:
        shown = f"ProtectHome=tmpfs\nBindReadOnlyPaths={' '.join(_quoted(str(path)) for path in hidden)}\n"
        text = text.replace("ProtectHome=yes\n", shown)
    return text


def _hidden(folders: Iterable[Path]) -> list[Path]:
    """Those of ``folders`` that the sandbox hides, without those inside of others."""
    found = {path for path in folders if any(path.is_relative_to(place) for place in HIDDEN)}
    return sorted(path for path in found if not found & set(path.parents))


def _quoted(word: str) -> str:
    """A word of a unit file's command line or list."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", word) else escaped


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _marked(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"# learnerd {version('learnerd')} wrote this; unchanged: {digest}\n{text}"


def _is_ours(text: str) -> bool:
    """Whether nobody has changed it since it was written."""
    mark = MARK.match(text)
    return mark is not None and hashlib.sha256(text[mark.end() :].encode()).hexdigest() == mark[1]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
