"""Is the configuration right, does the store fit it, and does the daemon have it in force?"""

from collections.abc import Iterator, Mapping

from learnerd import status_file, versions
from learnerd.config import ENV_PREFIX, Config, ConfigError
from learnerd.doctor.finding import Finding, failure, notice, ok, warning
from learnerd.published_policy import policy_problems


def check(config: Config | ConfigError, env: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the file, the environment, the published policy and the running daemon."""
    if isinstance(config, ConfigError):
        for problem in config.problems:
            yield failure("config", str(problem), "mend it; `learnerd setup` writes a new one")
        return
    problems = policy_problems(config, _published(config))
    for problem in problems:
        yield failure("config", str(problem), "put it back, or name another [paths] state")
    if not problems:
        yield ok("config", f"{config.file}{_overrides(env)}")
    yield from _daemon(config)


def _published(config: Config) -> Mapping[str, object]:
    """The newest whole manifest's policy; {} when there is none."""
    state = config.paths.state
    for number in reversed(versions.numbers(state)):
        spec = versions.manifest(state, number).get("spec")
        if isinstance(spec, dict):
            return spec
    return {}


def _overrides(env: Mapping[str, str]) -> str:
    tables = tuple(f"{ENV_PREFIX}{name.upper()}_" for name in Config.model_fields)
    found = sorted(name for name in env if name.startswith(tables))
    return f", overridden by {', '.join(found)}" if found else ""


def _daemon(config: Config) -> Iterator[Finding]:
    document = status_file.live_document(config)
    daemon, alarms = document["daemon"], document["alarms"]
    serious = [alarm for alarm in alarms if alarm.get("level") != "notice"]
    if daemon["state"] == "dead":
        remedy = "look at its log, then start it: nothing that was deposited is lost"
        yield warning("daemon", "it ended without saying so", remedy)
        return
    if not status_file.is_alive(document):
        yield ok("daemon", "never ran here" if daemon["state"] == "never" else "stopped")
        return
    yield ok("daemon", f"{daemon['state']}, pid {daemon['pid']}")
    if daemon["config_digest"] not in (None, config.digest()):
        remedy = "systemctl reload learnerd@NAME, or send it SIGHUP"
        yield notice("daemon", "it learns by another configuration than the one in the file", remedy)
    for alarm in serious:
        yield warning(f"alarm {alarm['id']}", str(alarm["message"]), str(alarm["remedy"]))
