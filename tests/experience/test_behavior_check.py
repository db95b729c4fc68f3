"""Episodes whose log-probabilities are checked together get what each would get alone."""

import numpy as np
import pytest

from experience import behavior_check
from experience.admission import Rules, Sight, admit, admit_all

RULES = Rules(max_age_s=100.0, max_staleness=5, observation_shape=(4,), n_actions=2, logp_tolerance=0.01)


def expected(version, obs, action, mask):
    """Depends on everything that is given; version 7 is gone."""
    if version == 7:
        return None
    free = 0.0 if mask is None else mask.sum(axis=1)
    return -0.01 * version - np.abs(obs[:, 0].astype(float)) - 0.1 * action - 0.001 * free


def sight(age_s=0.0):
    return Sight(age_s=age_s, staleness=lambda _: 0, log_probs=expected)


@pytest.fixture
def played(make_episode):
    """Episodes of one to nine steps by several versions, some masked, some with a step that is wrong."""

    def play(count, rng):
        made = []
        for index in range(count):
            steps = int(rng.integers(1, 10))
            obs = rng.normal(size=(steps + 1, 4)).astype(np.float32)
            action = rng.integers(2, size=steps)
            mask = np.ones((steps, 2), bool) if rng.random() < 0.4 else None
            version = rng.integers(1, 9, steps)
            mixed = rng.random() < 0.5
            acted = version if mixed else np.full(steps, version[0])
            logp = np.array(
                [
                    -1.0 if v == 7 else expected(v, obs[t : t + 1], action[t : t + 1], _row(mask, t))[0]
                    for t, v in enumerate(acted)
                ]
            )
            logp[rng.random(steps) < 0.05] -= 0.5
            fields = {"policy_version_step": version} if mixed else {"policy_version": int(version[0])}
            fields |= {"reward": np.zeros(steps), "action": action, "obs": obs, "mask": mask, "logp": logp}
            made.append(make_episode(f"{index}", **fields))
        return made

    return play


def _row(mask, t):
    return None if mask is None else mask[t : t + 1]


@pytest.mark.parametrize("most_steps", [1, 20, 8192])
def test_together_is_as_each_alone(played, monkeypatch, most_steps):
    monkeypatch.setattr(behavior_check, "MOST_STEPS", most_steps)
    made = played(60, np.random.default_rng(most_steps))
    alone = [admit(episode, RULES, sight()) for episode in made]
    assert admit_all(made, RULES, [sight()] * len(made)) == alone
    assert {None, "logp_mismatch"} == {problem and problem.reason for problem in alone}


def test_what_another_rule_refuses_is_not_computed(played):
    made = played(3, np.random.default_rng(1))
    asked = []

    def note(version, obs, *rest):
        asked.append(len(obs))
        return expected(version, obs, *rest)

    sights = [Sight(age_s=age_s, staleness=lambda _: 0, log_probs=note) for age_s in (0.0, 999.0, 0.0)]
    verdicts = admit_all(made, RULES, sights)
    assert verdicts[1].reason == "too_old"
    assert sum(asked) <= made[0].n_steps + made[2].n_steps


def test_short_episodes_of_one_version_are_one_call(make_episode):
    asked = []

    def note(version, obs, action, mask):
        asked.append((version, len(obs), mask is None))
        return np.full(len(action), -1.0)

    made = [make_episode(str(i), policy_version=3, logp=np.full(3, -1.0)) for i in range(5)]
    every = Sight(age_s=0.0, staleness=lambda _: 0, log_probs=note)
    assert admit_all(made, RULES, [every] * 5) == [None] * 5
    assert asked == [(3, 15, True)]
