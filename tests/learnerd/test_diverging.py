import numpy as np
import pytest

from learnerd.diverging import diverging


@pytest.mark.parametrize("bad", [{0}, {9}, {3, 4}, set(range(10)), {1, 8}])
def test_finds_those_to_blame(bad):
    found = diverging(list(range(10)), lambda some: not bad & set(some))
    assert set(found) == bad


def test_when_only_all_together_diverge_all_are_to_blame():
    assert diverging([1, 2, 3], lambda some: len(some) < 3) == [1, 2, 3]


def test_one_of_many_costs_few_trials():
    trials = []
    diverging(list(range(1024)), lambda some: trials.append(1) or 77 not in some)
    assert len(trials) == 20


CONTINUOUS = """
[policy]
observation_shape = [3]
action = { kind = "continuous", shape = [1] }
[learner]
algorithm = "reinforce"
"""


def test_an_episode_whose_update_diverges_costs_its_neighbors_nothing(site, drop):
    site.configure(CONTINUOUS)
    for i in range(6):
        drop(action=np.linspace(-1, 1, 5)[:, None] * (1e12 if i == 3 else 1.0))
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert site.status()["episodes"]["refused"] == {"diverged": 1}
    assert site.status()["episodes"]["learned"] == 5
    assert site.files("claimed") == []
    assert len(site.files("archive")) == 1
