"""The tables of ``config.toml``: names, types, bounds and defaults; ``config.toml`` itself says why for each.

Units are in the names: ``_s`` seconds, ``_minutes``, ``_days``, ``_bytes``, ``_episodes``, ``_steps``.
"""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from learnerd.config_spaces import ACCEPTED_ACTION, ACCEPTED_OBSERVATION, Action, Observation
from learnerd.cron import Cron
from learnerd.export import FORMATS
from learnerd.windows import Window

if TYPE_CHECKING:
    from experience.spaces import Space
    from policies.settings import LearnerSettings
    from policies.spec import ActionSpace, PolicySpec
    from policies.stability import StabilityLimits

MAX_PORT = 65_535


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _to_path(value: Any, info: ValidationInfo) -> Any:
    """Text becomes a path; a relative one is relative to the config file's folder."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        return value
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / Path(value).expanduser()


def _check_cron(text: str) -> str:
    Cron.parse(text)
    return text


def _check_window(text: str) -> str:
    Window.parse(text)
    return text


def _check_formats(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in FORMATS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"{unknown[0]!r} is no format" if unknown else "a format is named twice")
    return names


def _check_address(text: str) -> str:
    if text:
        split_address(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """IP address and port of ``host:port``; "localhost" is 127.0.0.1.

    Raises:
        ValueError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise ValueError(f"{text!r} does not end with a port")
    if host == "localhost":
        return "127.0.0.1", int(port)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in bare) != (bare != host):
        raise ValueError("an IPv6 address is written in brackets")
    return str(ip_address(bare)), int(port)


Folder = Annotated[Path, BeforeValidator(_to_path), Field(description="a folder's name, as text")]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PositiveOrZero = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Widths = Annotated[
    tuple[Count, ...],
    BeforeValidator(_to_tuple),
    Field(min_length=1, description="a list of integers >= 1, such as [64, 64]"),
]
CronLine = Annotated[
    str,
    AfterValidator(_check_cron),
    Field(description='five cron fields (minute hour day month weekday), such as "30 3 * * *"'),
]
Address = Annotated[
    str,
    AfterValidator(_check_address),
    Field(description='"" or an IP address and a port, such as "127.0.0.1:8642" or "[::1]:8642"'),
]


WindowText = Annotated[str, AfterValidator(_check_window)]
WINDOWS = 'a list of windows, each a cron line, "for" and at most 7d, such as ["0 18 * * mon-fri for 6h"]'
Formats = Annotated[
    tuple[str, ...],
    BeforeValidator(_to_tuple),
    AfterValidator(_check_formats),
    Field(description=f"a list of {', '.join(FORMATS)}, each once"),
]


class Table(BaseModel):
    """A table: no other keys, no change after it was read, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Paths(Table):
    """Where the spool and the state are."""

    # Defaults too are relative to the config file.
    model_config = ConfigDict(validate_default=True)

    spool: Folder = Path("spool")
    state: Folder = Path("state")


class Policy(Table):
    """The network; shapes that are left out come from the first episodes."""

    observation_shape: Widths | None = Field(default=None, description="a list of integers >= 1, such as [4]")
    observation: Observation | None = Field(default=None, description=ACCEPTED_OBSERVATION)
    action: Action | None = Field(default=None, discriminator="kind", description=ACCEPTED_ACTION)
    network: Literal["auto", "mlp", "conv", "embedding"] = "auto"
    hidden: Widths = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    normalize: bool = True
    layer_norm: bool = False

    def action_space(self) -> "ActionSpace | None":
        """The action space as the policies package has it; None when left out."""
        from policies.spec import action_space_from_json  # noqa: PLC0415 - loads numpy

        return None if self.action is None else action_space_from_json(self.action.model_dump(mode="json"))

    def observation_space(self) -> "Space | None":
        """What is observed, as the other packages have it; None when left out."""
        from experience.space_parsing import space_from_json  # noqa: PLC0415 - loads numpy

        if self.observation is not None:
            return space_from_json(self.observation.model_dump(mode="json"))
        shape = self.observation_shape
        return None if shape is None else space_from_json({"kind": "box", "shape": list(shape)})

    def spec(self, observation: "Space", action: "ActionSpace") -> "PolicySpec":
        """The policy for two spaces, with everything else as said here."""
        from policies.spec import PolicySpec  # noqa: PLC0415 - loads numpy

        return PolicySpec.of(
            observation,
            action,
            network=self.network,
            hidden=self.hidden,
            activation=self.activation,
            normalize=self.normalize,
            layer_norm=self.layer_norm,
        )


class Learner(Table):
    """How a batch changes the policy."""

    algorithm: Literal["ppo", "reinforce"] = "ppo"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: CountOrZero = 0
    learning_rate: Positive = 5e-4
    lr_scaling: Literal["sqrt", "linear", "none", "sum"] = "sqrt"
    reference_batch_episodes: Count = 8
    gamma: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    epochs: Count = 4
    minibatches: Count = 4
    baseline: Literal["value", "ema", "batch_mean", "leave_one_out"] = "value"
    threads: Literal["auto"] | Count = Field(default="auto", description='"auto" or an integer >= 1')
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    ratio_cap: Annotated[float, Field(ge=1)] = 10.0
    prox_decay: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.889, description='"auto" or a number >= 0 and < 1'
    )
    ess_min: Fraction = 0.3
    entropy_bonus: PositiveOrZero = 0.01
    max_grad_norm: Positive = 0.5
    value_max_grad_norm: Positive = 10.0
    target_kl: PositiveOrZero = 0.05
    popart_rate: Fraction = 0.1
    ema_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    optimizer: Literal["adam", "sgd"] = "adam"
    l2_init: PositiveOrZero = 0.0
    shrink_perturb: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise_scale: bool = False

    def settings(self) -> "LearnerSettings":
        """These keys as the learner takes them."""
        from policies.settings import LearnerSettings  # noqa: PLC0415 - loads numpy

        return LearnerSettings(**self.model_dump(exclude={"device", "seed", "threads"}))


class Daemon(Table):
    """This process."""

    name: str = Field(
        default="daemon",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="1 to 64 letters, digits, '.', '_' or '-', as text; the first a letter or a digit",
    )
    drain_s: PositiveOrZero = 60.0


class Batch(Table):
    """When a batch closes and how it is cut."""

    min_episodes: Count = 8
    max_wait_s: PositiveOrZero = 5.0
    chunk_episodes: Count = 8
    max_steps: Count = 200_000
    max_bytes: Count = 268_435_456
    max_chunks: Count = 8
    reuse: Annotated[float, Field(ge=1)] = 1.0
    replay_episodes: Count = 1000
    replay_bytes: Count = 268_435_456


class Admission(Table):
    """Which episodes are learned from."""

    max_age_s: Positive = 3600.0
    max_staleness: CountOrZero = 64
    width: Literal["strict", "padded"] = "strict"
    logp_tolerance: PositiveOrZero = 0.01
    settle_s: PositiveOrZero = 2.0
    max_file_bytes: Annotated[int, Field(ge=1, le=67_108_864)] = 67_108_864


class Merge(Table):
    """What happens when an online learner published in the meantime."""

    weighting: Literal["none", "episodes", "age"] = "none"
    online_weight: Fraction = 1.0
    half_life_s: Positive = 600.0
    drift_limit: PositiveOrZero = 0.0


class Stability(Table):
    """What counts as a bad update, a policy that tries nothing new, falling returns, a starving client."""

    max_kl: PositiveOrZero = 1.0
    max_value_loss: PositiveOrZero = 1e8
    grad_norm_limit: PositiveOrZero = 1e6
    max_ratio: PositiveOrZero = 1e30
    min_entropy_fraction: Fraction = 0.01
    min_entropy_nats: float = -3.2
    entropy_collapse: Literal["alarm", "refuse", "off"] = "alarm"
    drift_alarm: bool = True
    drift_delta: PositiveOrZero = 0.25
    drift_threshold: Positive = 20.0
    starvation_episodes: CountOrZero = 32

    def limits(self) -> "StabilityLimits":
        """The limits as the policies package takes them."""
        from policies.stability import StabilityLimits  # noqa: PLC0415 - loads numpy

        return StabilityLimits(
            max_kl=self.max_kl,
            max_value_loss=self.max_value_loss,
            grad_norm_limit=self.grad_norm_limit,
            max_ratio=self.max_ratio,
            min_entropy_fraction=self.min_entropy_fraction,
            min_entropy_nats=self.min_entropy_nats,
            refuses_collapse=self.entropy_collapse == "refuse",
        )


class Rollback(Table):
    """When a version counts as worse than the one before it, and what is done then."""

    mode: Literal["off", "alarm", "auto"] = "alarm"
    test: Literal["mann_whitney", "welch"] = "mann_whitney"
    level: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    min_episodes: Annotated[int, Field(ge=8, le=1024)] = 32
    min_effect: PositiveOrZero = 0.5


class Gate(Table):
    """Whether clients act with each version at once, or only with those that passed."""

    mode: Literal["off", "warn", "enforce", "shadow"] = "off"
    method: Literal["cwpdis", "wis", "pdis", "dr", "wdr", "fqe"] = "cwpdis"
    margin: PositiveOrZero = 0.25
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    min_ess: Fraction = 0.3
    min_episodes: Annotated[int, Field(ge=8)] = 32
    max_held_episodes: Annotated[int, Field(ge=8)] = 256


class Store(Table):
    """How many versions are kept."""

    keep_last: Count = 80
    keep_every: CountOrZero = 100
    keep_minutes: PositiveOrZero = 10.0
    keep_bytes: Count = 10_737_418_240
    keep_records_bytes: CountOrZero = 1_073_741_824


class Export(Table):
    """Which files are written beside each version, for clients that do not compute it themselves."""

    formats: Formats = ()
    lossy: bool = False


class Retention(Table):
    """How long files are kept."""

    keep_days: PositiveOrZero = 30.0
    keep_bytes: CountOrZero = 10_737_418_240


class QuarantineRetention(Retention):
    """How long unreadable files are kept."""

    keep_bytes: CountOrZero = 1_073_741_824


class Schedule(Table):
    """What happens by the clock."""

    rescan_s: Positive = 10.0
    train: Annotated[
        Literal["always"] | Annotated[tuple[WindowText, ...], Field(min_length=1)], BeforeValidator(_to_tuple)
    ] = Field(default="always", description=f'"always" or {WINDOWS}')
    quiet: Annotated[tuple[WindowText, ...], BeforeValidator(_to_tuple)] = Field(
        default=(), description=WINDOWS
    )
    busy_max_s: Positive = 300.0
    compact: CronLine = "30 3 * * *"


class Disk(Table):
    """How full the disk may get."""

    min_free_bytes: CountOrZero = 268_435_456


class History(Table):
    """How much of the past is kept, and how finely."""

    keep_cycles: Count = 20_000
    keep_minute_days: Positive = 30.0
    keep_hour_days: Positive = 1100.0


class Telemetry(Table):
    """What the daemon tells about itself."""

    # Defaults too are relative to the config file.
    model_config = ConfigDict(validate_default=True)

    log: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    http: Address = ""
    http_names: Annotated[tuple[str, ...], BeforeValidator(_to_tuple)] = Field(
        default=(), description='a list of host names, such as ["box.lan"]'
    )
    token_file: Annotated[Path, BeforeValidator(_to_path)] | None = Field(
        default=None, description="a file's name, as text"
    )
    tensorboard: bool = False
