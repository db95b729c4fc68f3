"""Updates beside other learners and beside bare matrix products: the goals of ``update.py`` as figures."""

import statistics

import torch
import update
from speed_figures import Figure


def measure(*, small):
    """One figure a goal: how many times as fast we are, the median over rounds in which all take turns."""
    torch.set_num_threads(1)
    cases = update.cases(steps=256, episodes=20) if small else update.cases()
    return [figure for case in cases for figure in _figures(case, rounds=1 if small else 7)]


def _figures(case, rounds):
    rates = update.measure(case, rounds)
    parts = {f"{name}, samples/s": statistics.median(each) for name, each in rates.items()}
    for name, goal in case.goals.items():
        ratios = [ours / other for ours, other in zip(rates[update.OURS], rates[name], strict=True)]
        work = f"{case.name}, against {name}"
        yield Figure(work=work, value=statistics.median(ratios), unit="x", least=round(goal, 3), parts=parts)
        parts = {}
