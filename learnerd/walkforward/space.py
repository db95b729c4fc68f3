"""Space: where ``--tune`` looks for better settings."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from learnerd.config import Config
from learnerd.walkforward.settings import Key, check_key, text_of, with_values

DIGITS = 3
"""Of a number that was drawn: more say nothing, and nobody reads them."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The values that one key may take.

    Attributes:
        draws: from ``low`` to ``high`` "linear", "log" or "whole", or one of ``choices``.
        low, high: bounds.
        choices: when there are no bounds.
        algorithm: the only one that looks at it; "" for each.
    """

    draws: Literal["linear", "log", "whole", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()
    algorithm: str = ""

    def ends(self) -> tuple[Any, ...]:
        """Its choices, or its bounds."""
        whole = self.draws == "whole"
        return self.choices or ((int(self.low), int(self.high)) if whole else (self.low, self.high))


ALGORITHM, BASELINE, SCALING = ("learner", "algorithm"), ("learner", "baseline"), ("learner", "lr_scaling")

SPACE: Mapping[Key, Dimension] = {
    ALGORITHM: Dimension(draws="choice", choices=("ppo", "reinforce")),
    ("learner", "learning_rate"): Dimension(draws="log", low=1e-5, high=1e-2),
    ("learner", "entropy_bonus"): Dimension(draws="log", low=1e-4, high=0.1),
    ("learner", "epochs"): Dimension(draws="whole", low=1, high=8),
    ("learner", "minibatches"): Dimension(draws="choice", choices=(1, 2, 4, 8)),
    ("learner", "gae_lambda"): Dimension(draws="linear", low=0.8, high=1.0, algorithm="ppo"),
    ("learner", "clip_range"): Dimension(draws="linear", low=0.05, high=0.4, algorithm="ppo"),
    BASELINE: Dimension(
        draws="choice", choices=("value", "ema", "batch_mean", "leave_one_out"), algorithm="reinforce"
    ),
}
"""In the order in which they are drawn. Bounds are where the other end of them never helped anybody."""


def space_of(config: Config, given: Mapping[Key, Sequence[Any]]) -> dict[Key, Dimension]:
    """The space with what ``--set`` said: a key has one of the values that were given, or the only one.

    Raises:
        ConfigError: a key that changes nothing here.
    """
    for key, values in given.items():
        check_key(key, values[0])
    space = dict(SPACE)
    if config.batch.reuse > 1.0 and ("batch", "reuse") not in given:
        space[ALGORITHM] = Dimension(draws="choice", choices=("ppo",))  # the other cannot learn again
    chosen = {key: Dimension(draws="choice", choices=tuple(values)) for key, values in given.items()}
    return {**{key: chosen.get(key, dimension) for key, dimension in space.items()}, **chosen}


def draw(trial: Any, space: Mapping[Key, Dimension], config: Config) -> dict[Key, Any]:
    """Ask an Optuna trial for one setting."""
    values: dict[Key, Any] = {}
    for key, dimension in space.items():
        algorithm = values.get(ALGORITHM, config.learner.algorithm)
        if dimension.algorithm in {"", algorithm}:
            values[key] = _DRAWS[dimension.draws](trial, ".".join(key), dimension)
    return fitting(config, values)


def check_space(config: Config, space: Mapping[Key, Dimension]) -> None:
    """Raise ConfigError for a value that is not accepted, alone or with an algorithm that may be drawn."""
    algorithms = space[ALGORITHM].choices if ALGORITHM in space else (config.learner.algorithm,)
    for algorithm, (key, dimension) in itertools.product(algorithms, space.items()):
        if dimension.algorithm in {"", algorithm}:
            for value in dimension.ends():
                with_values(config, fitting(config, {ALGORITHM: algorithm, key: value}))


def fitting(config: Config, values: Mapping[Key, Any]) -> dict[Key, Any]:
    """The values, and what else must change so that their algorithm is accepted."""
    needed: dict[Key, Any] = {}
    if values.get(ALGORITHM, config.learner.algorithm) == "ppo":
        needed |= {} if config.learner.baseline == "value" else {BASELINE: "value"}
        needed |= {SCALING: "sqrt"} if config.learner.lr_scaling == "sum" else {}
    return {**needed, **values}


def _number(trial: Any, name: str, dimension: Dimension) -> float:
    drawn = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.draws == "log")
    return float(f"{drawn:.{DIGITS}g}")


def _whole(trial: Any, name: str, dimension: Dimension) -> int:
    return int(trial.suggest_int(name, int(dimension.low), int(dimension.high)))


def _choice(trial: Any, name: str, dimension: Dimension) -> Any:
    """By their text: Optuna knows no lists."""
    by_text = {text_of(choice): choice for choice in dimension.choices}
    if len(by_text) == 1:
        return dimension.choices[0]
    return by_text[trial.suggest_categorical(name, list(by_text))]


_DRAWS: Mapping[str, Callable[[Any, str, Dimension], Any]] = {
    "linear": _number,
    "log": _number,
    "whole": _whole,
    "choice": _choice,
}
