"""Search: better settings by Optuna, judged on a part of the history that the search has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from learnerd.errors import LearnerdError
from learnerd.walkforward.results import Interval, Standing, Verdict, standings
from learnerd.walkforward.settings import Alternative, Key, with_values
from learnerd.walkforward.side_by_side import History, Run, by_seed, check_judged
from learnerd.walkforward.space import Dimension, draw
from learnerd.walkforward.task import Walked

EXTRA = "--tune needs Optuna: install learnerd[tune]"

ROUND = 4
"""Settings drawn before the next look at the results: as many whatever the number of processes, so that this
does not change what is found."""

HELD_OUT = 0.25
"""Share of the judged parts, the newest ones, that the search does not see."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of the search.

    Attributes:
        alternative: the setting.
        difference: from the configuration as it is, on the parts that are searched.
        ess_fraction: effective share.
        score: what the search maximizes, see ``score_of``.
    """

    alternative: Alternative
    difference: Interval
    ess_fraction: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search gave.

    Attributes:
        history: what was learned from.
        trials: best first.
        searched, held_out: positions of parts.
        standing: of the best one, on the parts that were held out.
        baseline: of the configuration as it is, there.
    """

    history: History
    trials: tuple[Trial, ...]
    searched: tuple[int, ...]
    held_out: tuple[int, ...]
    standing: Standing
    baseline: Standing

    @property
    def best(self) -> Trial:
        """The one with the highest score among those that can be judged."""
        return self.trials[0]

    @property
    def difference(self) -> Interval:
        """Of the best one from the configuration as it is, where the search has not looked."""
        assert self.standing.difference is not None
        return self.standing.difference

    @property
    def verdict(self) -> Verdict:
        """On it."""
        assert self.standing.verdict is not None
        return self.standing.verdict

    def to_json(self) -> dict[str, Any]:
        """JSON values, schema 1."""
        return {
            "schema": 1,
            "method": self.history.request.method,
            "gamma": self.history.config.learner.gamma,
            "seeds": list(self.history.seeds),
            "searched_parts": list(self.searched),
            "held_out_parts": list(self.held_out),
            "trials": [
                {
                    "settings": one.alternative.settings(),
                    "difference": asdict(one.difference),
                    "ess_fraction": one.ess_fraction,
                    "score": one.score,
                }
                for one in self.trials
            ],
            "held_out": {"as_configured": asdict(self.baseline), "best": asdict(self.standing)},
        }


def search(history: History, space: Mapping[Key, Dimension], *, trials: int, run: Run) -> Found:
    """Draw ``trials`` settings, and judge the best one where the search has not looked.

    Args:
        history: what to learn from.
        space: where to look.
        trials: how many settings.
        run: walks tasks.

    Raises:
        LearnerdError: Optuna is not there, or nothing can be judged; says why.
    """
    study = _study(history.config.learner.seed)
    reference = _Reference.walk(history, run)
    tried: list[Trial] = []
    while len(tried) < trials:
        asked = [study.ask() for _ in range(min(ROUND, trials - len(tried)))]
        drawn = [with_values(history.config, draw(trial, space, history.config)) for trial in asked]
        found = reference.trials(drawn, run)
        for trial, result in zip(asked, found, strict=True):
            study.tell(trial, result.score)
        tried += found
    return reference.judged(tried, run)


def budget(history: History, *, trials: int) -> int:
    """How many parts of how many walks there are to go through, for the progress."""
    n_seeds, n_parts = len(history.seeds), len(history.parts)
    searched, _ = divide(n_parts - 1)
    return n_seeds * (2 * n_parts + trials * (len(searched) + 1))


def divide(judged: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the judged parts are searched, and which are held out.

    Raises:
        LearnerdError: there are not enough.
    """
    if judged < 2:  # noqa: PLR2004 - one for each
        raise LearnerdError(
            f"--tune: {judged} parts can be judged; accepted: two or more, so three parts or more"
        )
    first = judged - max(1, round(judged * HELD_OUT))
    return tuple(range(first)), tuple(range(first, judged))


def score_of(standing: Standing, *, min_ess: float, spread: float) -> float:
    """Lower bound of the difference: what cannot be told apart from luck does not win.

    An effective share below ``min_ess`` makes an estimate a guess, whatever its interval: it costs up to one
    standard deviation of the returns, so that the search is led back to where it can judge.

    Args:
        standing: of the setting, against the configuration as it is.
        min_ess: ``[gate] min_ess``.
        spread: standard deviation of the episodes' returns.
    """
    assert standing.difference is not None
    lacking = max(0.0, 1.0 - standing.ess_fraction / min_ess) if min_ess > 0.0 else 0.0
    return standing.difference.low - spread * lacking


def _study(seed: int) -> Any:
    try:
        import optuna  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise LearnerdError(f"{EXTRA} ({error})") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The configuration as it is, to which all others are compared.

    Attributes:
        history: what is learned from.
        walks: one a seed.
        searched, held_out: which of the judged parts.
    """

    history: History
    walks: Sequence[Walked]
    searched: tuple[int, ...]
    held_out: tuple[int, ...]

    @classmethod
    def walk(cls, history: History, run: Run) -> "_Reference":
        as_is = Alternative(values={}, config=history.config)
        walks = run(history.tasks(as_is, judged=range(1, len(history.parts))))
        check_judged(walks[0])
        searched, held_out = divide(len(walks[0].judged))
        return cls(history=history, walks=walks, searched=searched, held_out=held_out)

    def trials(self, drawn: Sequence[Alternative], run: Run) -> list[Trial]:
        judged = self._parts(self.searched)
        tasks = [task for one in drawn for task in self.history.tasks(one, judged=judged)]
        walks = by_seed(run(tasks), len(self.history.seeds))
        return [self._trial(one, some) for one, some in zip(drawn, walks, strict=True)]

    def judged(self, tried: Sequence[Trial], run: Run) -> Found:
        min_ess = self.history.config.gate.min_ess
        ranked = sorted(tried, key=lambda one: (one.ess_fraction >= min_ess, one.score), reverse=True)
        if ranked[0].ess_fraction < min_ess:
            raise LearnerdError(_none_judged(ranked, min_ess))
        walks = run(self.history.tasks(ranked[0].alternative, judged=self._parts(self.held_out)))
        baseline, best = standings([self._only(self.held_out), walks], min_ess=min_ess)
        return Found(
            history=self.history,
            trials=tuple(ranked),
            searched=tuple(self._parts(self.searched)),
            held_out=tuple(self._parts(self.held_out)),
            standing=best,
            baseline=baseline,
        )

    def _trial(self, alternative: Alternative, walks: Sequence[Walked]) -> Trial:
        min_ess = self.history.config.gate.min_ess
        baseline = self._only(self.searched)
        _, standing = standings([baseline, walks], min_ess=min_ess)
        assert standing.difference is not None
        spread = float(np.mean([one.spread for one in baseline[0].judged]))
        return Trial(
            alternative=alternative,
            difference=standing.difference,
            ess_fraction=standing.ess_fraction,
            score=score_of(standing, min_ess=min_ess, spread=spread),
        )

    def _only(self, positions: Sequence[int]) -> list[Walked]:
        return [replace(one, judged=tuple(one.judged[i] for i in positions)) for one in self.walks]

    def _parts(self, positions: Sequence[int]) -> list[int]:
        return [self.walks[0].judged[i].part for i in positions]


def _none_judged(ranked: Sequence[Trial], min_ess: float) -> str:
    highest = max(one.ess_fraction for one in ranked)
    return (
        f"--tune: none of {len(ranked)} settings can be judged: highest effective share {highest:.2f}; "
        f"accepted: [gate] min_ess = {min_ess:g} or more, such as by smaller learning rates, more parts, or "
        "another --method"
    )
