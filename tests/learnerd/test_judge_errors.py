"""How often the gate errs: with candidates whose true return differs by a known amount, many times over."""

import math
import os
import statistics

import numpy as np
import pytest
from judge_site import STEPS, Site

from learnerd.judge import PASSED

ACTING, MARGIN, LEVEL = 0.5, 0.25, 0.95
OBS = np.abs(np.random.default_rng(0).normal(size=200_000))


def hit_rate(skill):
    """Probability that a step is right: the two logits differ by 2 skill tanh(3 x)."""
    return float(np.mean(1.0 / (1.0 + np.exp(-2.0 * skill * np.tanh(3.0 * OBS)))))


def skill_that_returns(difference):
    """The skill whose mean return is ``difference`` standard deviations above that of ACTING."""
    p = hit_rate(ACTING)
    wanted = p + difference * math.sqrt(p * (1.0 - p) / STEPS)
    low, high = -3.0, 6.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if hit_rate(middle) < wanted else (low, middle)
    return low


def judged(folder, skill, seed):
    """The verdict of one candidate: (passed, after how many episodes)."""
    rules = {"mode": "enforce", "margin": MARGIN, "level": LEVEL}
    site = Site(folder, rules, seed, first_skill=ACTING, batch_size=32)
    site.cycle(skill - ACTING)
    while True:
        site.cycle(0.0)
        for ruling in site.rulings:
            if ruling.verdict.candidate == 2 and ruling.verdict.outcome != "waiting":
                return ruling.verdict.outcome == PASSED, ruling.verdict.episodes


@pytest.mark.parametrize("count", [8, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_worse_ones_hardly_ever_pass_and_better_ones_soon_do(tmp_path, monkeypatch, capsys, count):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    passed, after = {}, {}
    for difference in (-MARGIN, 0.0, MARGIN):
        skill = skill_that_returns(difference)
        found = [judged(tmp_path / f"{difference}-{seed}", skill, seed) for seed in range(count)]
        passed[difference] = sum(ok for ok, _ in found) / count
        after[difference] = statistics.median(episodes for _, episodes in found)
    with capsys.disabled():
        for difference, share in passed.items():
            print(
                f"\n{difference:+.2f} sd: {share:.1%} passed, median {after[difference]:.0f} episodes", end=""
            )
    error = 1.0 - LEVEL
    assert passed[-MARGIN] <= error + 3.0 * math.sqrt(error * LEVEL / count)
    assert passed[MARGIN] >= 0.9
    assert max(after.values()) <= 256
