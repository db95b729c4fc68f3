"""Python, torch, threads, inotify and the clock."""

import ctypes
import importlib.util
import os
import platform
import runpy
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from learnerd import status_file, versions
from learnerd.config import Config
from learnerd.doctor.finding import Finding, failure, notice, ok, warning
from learnerd.threads import VARIABLES, WIDE, thread_count

PROC = Path("/proc")
INOTIFY = {"max_user_watches": 1024, "max_user_instances": 16, "max_queued_events": 1024}
"""Limits, and the least that suits a machine with more on it than this daemon."""

GPU_MARKS = (Path("/dev/nvidia0"), Path("/dev/kfd"))
RELEASED_AT = 1_735_689_600.0
"""2025: a clock that shows an earlier time was never set."""

AHEAD_S = 300.0
TIME_ERROR = 5


def check(config: Config | None, env: Mapping[str, str]) -> Iterator[Finding]:
    """Look at what the daemon needs of the machine."""
    yield ok("python", f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})")
    yield torch_build(config)
    yield from threads(config or Config(), _environment(config, env))
    yield inotify()
    yield from clock(config)


def has_gpu() -> bool:
    """Whether the machine shows a GPU, whatever torch makes of it."""
    return any(mark.exists() for mark in GPU_MARKS)


def torch_build(config: Config | None) -> Finding:
    """Read what torch was built for; importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return failure("torch", "not installed", f"{sys.executable} -m pip install torch")
    try:
        found = runpy.run_path(str(Path(spec.submodule_search_locations[0]) / "version.py"))
    except OSError as error:
        remedy = f"{sys.executable} -m pip install --force-reinstall torch"
        return failure("torch", f"damaged: {error}", remedy)
    built_for = "CUDA" if found.get("cuda") else "ROCm" if found.get("hip") else "the CPU alone"
    what = f"{found.get('__version__')}, built for {built_for}"
    wanted = "auto" if config is None else config.learner.device
    if built_for == "the CPU alone" and wanted == "cuda":
        remedy = 'install a build for your GPU, see https://pytorch.org, or set [learner] device = "cpu"'
        return failure("torch", f'{what}, but [learner] device is "cuda"', remedy)
    if built_for == "the CPU alone" and wanted == "auto" and has_gpu():
        remedy = 'install a build for it, see https://pytorch.org, or set [learner] device = "cpu"'
        return warning("torch", f"{what}: the GPU of this machine is not used", remedy)
    return ok("torch", what)


def _environment(config: Config | None, env: Mapping[str, str]) -> Mapping[str, str]:
    """The running daemon's; where there is none, or another user's, ``env``."""
    pid = None if config is None else status_file.live_document(config)["daemon"]["pid"]
    try:
        pairs = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return env
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def threads(config: Config, env: Mapping[str, str]) -> Iterator[Finding]:
    """Two threads for a small network were 130 times slower than one."""
    count, cores = thread_count(config), len(os.sched_getaffinity(0))
    remedies = [
        (f"{name} is {env[name]} in the environment, [learner] threads asks for {count}", f"unset {name}")
        for name in VARIABLES
        if env.get(name, str(count)) != str(count)
    ]
    if count > cores:
        what = f"[learner] threads is {count}, but this process may use {cores} cores"
        remedies.append((what, 'set it to "auto"'))
    elif count > 1 and max(config.policy.hidden) < WIDE:
        what = f"[learner] threads is {count}, for layers of up to {max(config.policy.hidden)} units"
        remedies.append((what, 'set it to "auto": one thread is faster for layers below 512'))
    for what, remedy in remedies:
        yield warning("threads", what, remedy)
    if not remedies:
        yield ok("threads", f"{count} of {cores} cores")


def inotify() -> Finding:
    """Without it files are found by rescans alone."""
    found = {}
    for key, least in INOTIFY.items():
        try:
            found[key] = int((PROC / "sys/fs/inotify" / key).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return notice("inotify", "limits are unknown", "none needed: files are found by rescans alone")
        if found[key] < least:
            return warning("inotify", f"{key} is {found[key]}", f"sysctl fs.inotify.{key}={8 * least}")
    return ok("inotify", ", ".join(f"{key} {value}" for key, value in found.items()))


def clock(config: Config | None) -> Iterator[Finding]:
    """Age limits compare this clock with those of the clients."""
    now = time.time()
    if now < RELEASED_AT:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield failure("clock", f"shows {shown}", "set it: `timedatectl set-ntp true`")
        return
    saved = None if config is None else _newest_save(config)
    if saved is not None and saved > now + AHEAD_S:
        what = f"the newest version was saved {saved - now:.0f} s ahead of it"
        yield warning("clock", what, "set the clock: age limits and retention go by it")
    elif _is_unsynchronized():
        remedy = "`timedatectl set-ntp true`, when clients on other machines say when their episodes ended"
        yield notice("clock", "not synchronized", remedy)
    else:
        yield ok("clock", "synchronized")


def _newest_save(config: Config) -> float | None:
    numbers = versions.numbers(config.paths.state)
    saved = versions.manifest(config.paths.state, numbers[-1]).get("saved_at") if numbers else None
    return saved if isinstance(saved, float) else None


def _is_unsynchronized() -> bool:
    """As the kernel says; adjtimex(2) with modes 0 only reads."""
    try:
        return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == TIME_ERROR)
    except (OSError, AttributeError):
        return False
