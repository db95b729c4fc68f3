"""One made-up episode through the very pipeline, in a process and a scratch folder of its own."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learnerd import versions
from learnerd.config import FILE_NAME, Config
from learnerd.doctor.finding import Finding, failure, ok, warning
from learnerd.doctor.machine import has_gpu

CHECK = "pipeline"
TIMEOUT_S = 300.0
"""Importing torch from a cold disk takes its time."""

NICE = 10
STEPS = 3
SUPERVISED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def one_episode(config: Config | None, scratch: Path, env: Mapping[str, str]) -> Finding:
    """Deposit, claim, decode, admit, train, publish and archive, with the user's own settings."""
    spool, state = scratch / "spool", scratch / "state"
    _deposit(config or Config(), spool / "in")
    if config is None or config.file is None:
        file = scratch / FILE_NAME
        file.write_text("", encoding="utf-8")
    else:
        file = config.file
    begun_s = time.monotonic()
    code, said = _run(file, scratch, env)
    if code != 0:
        return failure(CHECK, f"exit code {code}: {_last_words(said)}", "the log line names what is wrong")
    numbers = versions.numbers(state)
    found = versions.details(state, numbers[-1]) if numbers else {}
    if not found or found["damage"] or found["manifest"].get("episodes_total") != 1:
        what = f"the episode was not learned: {_verdict(state)}"
        return failure(CHECK, what, "loosen that limit, or deposit such episodes under other settings")
    device = _device(said)
    what = f"one episode was learned and published, on {device}, in {time.monotonic() - begun_s:.1f} s"
    if device == "cpu" and has_gpu() and (config is None or config.learner.device == "auto"):
        remedy = "look at its driver: nvidia-smi, rocminfo"
        return warning(CHECK, f"{what}; torch does not see the GPU", remedy)
    return ok(CHECK, what)


def _deposit(config: Config, inbox: Path) -> None:
    """Write what a client in any language would write."""
    policy = config.policy
    header: dict[str, Any] = {"episode_id": "doctor", "policy_version": 0, "ended_at": time.time()}
    space: dict[str, Any] = {"kind": "discrete", "n": 2}
    if policy.action is not None:
        space = policy.action.model_dump(mode="json")
    header["action_space"] = space
    observed: dict[str, Any] = {"kind": "box", "shape": policy.observation_shape or (4,)}
    if policy.observation is not None:
        observed = header["observation_space"] = policy.observation.model_dump(mode="json")
    action, logp = _action(space)
    steps = [
        {"obs": _observation(observed, 0.1 * step), "action": action, "reward": float(step), "logp": logp}
        for step in range(STEPS)
    ]
    end = {"final_obs": _observation(observed, 0.0), "terminated": True, "truncated": False}
    inbox.mkdir(parents=True)
    lines = [json.dumps(line) for line in (header, *steps, end)]
    file = inbox / "doctor.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settled_at = time.time() - config.admission.settle_s - 1.0
    os.utime(file, (settled_at, settled_at))  # it is complete: nobody need wait to see whether it grows


def _action(space: Mapping[str, Any]) -> tuple[Any, float]:
    """Some action, and the log-probability that it would have had by chance."""
    match space["kind"]:
        case "continuous":
            return [0.0] * space["shape"][0], -1.0
        case "multi_discrete":
            return [0] * len(space["nvec"]), -sum(map(math.log, space["nvec"]))
        case "multi_binary":
            return [0] * space["n"], -space["n"] * math.log(2)
    return space.get("start", 0), -math.log(space["n"])


def _observation(space: Mapping[str, Any], value: float) -> Any:
    """Some observation; ``value`` for real numbers."""
    match space["kind"]:
        case "dict":
            return {name: _observation(part, value) for name, part in space["spaces"].items()}
        case "tuple":
            return [_observation(part, value) for part in space["spaces"]]
        case "box" | "image" as kind:
            return _filled(tuple(space["shape"]), value if kind == "box" else 0)
        case "multi_discrete" | "multi_binary":
            return [0] * len(space.get("nvec") or range(space["n"]))
    return space.get("start", 0)


def _filled(shape: tuple[int, ...], value: float) -> Any:
    return [_filled(shape[1:], value) for _ in range(shape[0])] if shape else value


def _run(file: Path, scratch: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Run the daemon until that one file is learned; the exit code and the log."""
    root = str(Path(__file__).resolve().parents[2])
    settings = {
        "LEARNERD_PATHS_SPOOL": str(scratch / "spool"),
        "LEARNERD_PATHS_STATE": str(scratch / "state"),
        "LEARNERD_TELEMETRY_LOG": "json",
        "LEARNERD_TELEMETRY_LEVEL": "info",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "learnerd", "run", "--once", "--config", str(file)]
    inherited = {name: value for name, value in env.items() if name not in SUPERVISED}
    with subprocess.Popen(  # noqa: S603 - our own module
        command,
        env={**inherited, **settings},
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        try:
            said = process.communicate(timeout=TIMEOUT_S)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(), f"not done after {TIMEOUT_S:.0f} s"
    return process.returncode, said


def _last_words(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _device(said: str) -> str:
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("event") == "ready":
                return str(entry.get("device"))
    return "a device that it did not name"


def _verdict(state: Path) -> str:
    """Why the pipeline did not take it."""
    try:
        record = json.loads((state / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        return f"{record['reason']}: {record['field']} is {record['value']}; accepted: {record['accepted']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "no verdict was recorded"
