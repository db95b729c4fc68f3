"""Config: everything that ``config.toml`` says, checked once and frozen.

Loads neither torch, NumPy nor pyarrow.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from learnerd import config_problems
from learnerd.config_spaces import LEAVES_OF, kinds_of
from learnerd.config_tables import (
    Admission,
    Batch,
    Daemon,
    Disk,
    Export,
    Gate,
    History,
    Learner,
    Merge,
    Paths,
    Policy,
    QuarantineRetention,
    Retention,
    Rollback,
    Schedule,
    Stability,
    Store,
    Table,
    Telemetry,
    split_address,
)
from learnerd.errors import ConfigError, ConfigProblem
from learnerd.export import EXACT, FORMATS

__all__ = [
    "TEMPLATE",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "changed",
    "find_config",
    "load_config",
    "value_of",
]

FILE_NAME = "config.toml"
TEMPLATE = Path(__file__).with_name(FILE_NAME)
ENV_PREFIX = "LEARNERD_"
ENV_FILE = "LEARNERD_CONFIG"
LEARNING_TABLES = ("policy", "learner", "batch", "admission", "merge", "stability")


class Config(Table):
    """One table an attribute; ``load_config`` makes it, tests may build it from the tables."""

    paths: Paths = Paths()
    policy: Policy = Policy()
    learner: Learner = Learner()
    daemon: Daemon = Daemon()
    batch: Batch = Batch()
    admission: Admission = Admission()
    merge: Merge = Merge()
    stability: Stability = Stability()
    rollback: Rollback = Rollback()
    gate: Gate = Gate()
    store: Store = Store()
    export: Export = Export()
    archive: Retention = Retention()
    quarantine: QuarantineRetention = QuarantineRetention()
    schedule: Schedule = Schedule()
    disk: Disk = Disk()
    history: History = History()
    telemetry: Telemetry = Telemetry()

    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Where it was read from; None when it was built by hand."""
        return self._file

    def digest(self) -> str:
        """Sha256 over the canonical JSON of the tables that change what is learned."""
        learning = self.model_dump(mode="json", include=set(LEARNING_TABLES))
        text = json.dumps(learning, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @model_validator(mode="after")
    def _check_across_tables(self) -> Self:
        if self.learner.algorithm == "ppo" and self.learner.baseline != "value":
            # PPO's advantages are estimated with the value network.
            raise _across(
                "learner", "baseline", json.dumps(self.learner.baseline), '"value" with algorithm "ppo"'
            )
        if self.learner.algorithm == "ppo" and self.learner.lr_scaling == "sum":
            accepted = '"sqrt", "linear" or "none" with algorithm "ppo"'
            raise _across("learner", "lr_scaling", '"sum"', accepted)
        if self.learner.algorithm == "reinforce" and self.batch.reuse > 1:
            # It learns from archived episodes as if the newest policy had acted in them.
            raise _across("batch", "reuse", json.dumps(self.batch.reuse), '1.0 with algorithm "reinforce"')
        self._check_policy()
        lossy = [name for name in self.export.formats if FORMATS[name].lossy]
        if lossy and not self.export.lossy:
            accepted = f"exact ones ({', '.join(EXACT)}), or lossy = true too"
            raise _across("export", "formats", json.dumps(self.export.formats), accepted)
        if self.gate.max_held_episodes < self.gate.min_episodes:
            found = json.dumps(self.gate.max_held_episodes)
            raise _across("gate", "max_held_episodes", found, "min_episodes or more")
        most = self.admission.max_staleness * self.batch.chunk_episodes
        if self.gate.mode == "enforce" and self.gate.max_held_episodes > most:
            # Else what clients play with the version that acts is too stale before the verdict comes.
            accepted = f"at most {most}, max_staleness times chunk_episodes"
            raise _across("gate", "max_held_episodes", json.dumps(self.gate.max_held_episodes), accepted)
        if self.telemetry.http and self.telemetry.token_file is None:
            host, _ = split_address(self.telemetry.http)
            if not ip_address(host).is_loopback:
                accepted = 'an address of this machine alone, such as "127.0.0.1:8642", or token_file too'
                raise _across("telemetry", "http", json.dumps(self.telemetry.http), accepted)
        spool, state = (path.resolve() for path in (self.paths.spool, self.paths.state))
        if spool.is_relative_to(state) or state.is_relative_to(spool):
            raise _across("paths", "state", json.dumps(str(state)), f"a folder apart from spool, {spool}")
        return self

    def _check_policy(self) -> None:
        policy = self.policy
        if policy.observation is not None and policy.observation_shape is not None:
            value = json.dumps(list(policy.observation_shape))
            raise _across("policy", "observation_shape", value, "nothing beside observation, which says it")
        shape = policy.observation_shape
        kinds = {"box"} if shape else kinds_of(policy.observation) if policy.observation else None
        needed = LEAVES_OF.get(policy.network)
        if needed and kinds is not None and not kinds & needed:
            accepted = f'"auto" or "mlp": it is for {" and ".join(sorted(needed))}, which observation has not'
            raise _across("policy", "network", json.dumps(policy.network), accepted)


def find_config(path: Path | None, env: Mapping[str, str]) -> Path:
    """``path``, else ./config.toml, else $LEARNERD_CONFIG, else the user's config folder.

    Raises:
        ConfigError: none of them is there.
    """
    if path is not None:
        return path.absolute()
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config")
    named = [Path(env[ENV_FILE])] if env.get(ENV_FILE) else []
    candidates = [Path(FILE_NAME), *named, home / "learnerd" / FILE_NAME]
    for candidate in candidates:
        # A file that $LEARNERD_CONFIG names and that is missing is a mistake, not a reason to look on.
        if candidate in named or candidate.exists():
            return candidate.absolute()
    looked_at = ", ".join(str(candidate) for candidate in candidates)
    raise ConfigError(
        [
            ConfigProblem(
                source=FILE_NAME,
                value="not found",
                accepted=f"one of {looked_at}",
                hint="`learnerd setup` writes one; --config FILE names another",
            )
        ]
    )


def load_config(path: Path | None, env: Mapping[str, str]) -> Config:
    """Find, read and check the configuration; ``LEARNERD_<TABLE>_<KEY>`` in ``env`` overrides the file.

    Raises:
        ConfigError: one problem a wrong key, each naming source, table, key, value and what is accepted.
    """
    file = find_config(path, env)
    tables = _read_toml(file)
    origins = _override(tables, env)
    tables.setdefault("paths", {})  # so that the defaults become relative to the file
    try:
        config = Config.model_validate(tables, context={"folder": file.parent})
    except ValidationError as error:
        problems = config_problems.explain(error, Config, file=str(file), found=tables, origins=origins)
        raise ConfigError(problems) from None
    config._file = file  # noqa: SLF001 - set once, by the only reader
    return config


def changed(config: Config, values: Mapping[tuple[str, str], Any], *, source: str) -> Config:
    """``config`` with other values of some keys, checked as a file is.

    Args:
        config: as it is.
        values: (table, key) -> value, as TOML has it.
        source: where they are from, for the errors.

    Raises:
        ConfigError: as ``load_config``.
    """
    tables = config.model_dump(mode="json", exclude_none=True)
    for (table, key), value in values.items():
        tables.setdefault(table, {})[key] = value
    try:
        result = Config.model_validate(tables)
    except ValidationError as error:
        problems = config_problems.explain(error, Config, file=source, found=tables, origins={})
        raise ConfigError(problems) from None
    result._file = config.file  # noqa: SLF001 - it is from there all the same
    return result


def _across(table: str, key: str, value: str, accepted: str) -> PydanticCustomError:
    return PydanticCustomError(
        "across_tables", "", {"table": table, "key": key, "value": value, "accepted": accepted}
    )


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problem, accepted = f"not readable: {error.strerror}", "a readable TOML file"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problem, accepted = f"no TOML: {error or 'nested too deeply'}", "TOML in UTF-8, see https://toml.io"
    raise ConfigError([ConfigProblem(source=str(file), value=problem, accepted=accepted)])


def _override(tables: dict[str, Any], env: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Put the environment's values into ``tables``; return which (table, key) came from which variable."""
    origins: dict[tuple[str, str], str] = {}
    names = tuple(Config.model_fields)
    for variable in sorted(name for name in env if name.startswith(ENV_PREFIX)):
        name, _, key = variable.removeprefix(ENV_PREFIX).lower().partition("_")
        if name in names and key:
            table = tables.setdefault(name, {})
            if isinstance(table, dict):
                table[key] = value_of(env[variable])
                origins[name, key] = f"${variable}"
        elif key and (meant := config_problems.closest(name, names)):
            # Other LEARNERD_ variables may belong to others: Kubernetes sets LEARNERD_PORT for a service.
            raise ConfigError(
                [
                    ConfigProblem(
                        source=f"${variable}",
                        value=f"for no table: {name!r}",
                        accepted="LEARNERD_<TABLE>_<KEY>",
                        hint=f"did you mean {ENV_PREFIX}{meant.upper()}_{key.upper()}?",
                    )
                ]
            )
    return origins


def value_of(text: str) -> Any:
    """What ``text`` from outside of a file says: TOML; what is none is text, so that paths need no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text
