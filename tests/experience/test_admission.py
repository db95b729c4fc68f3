from dataclasses import replace

import numpy as np
import pytest

from experience.admission import Rules, Sight, acting_versions, admit

RULES = Rules(max_age_s=100.0, max_staleness=5, observation_shape=(4,), n_actions=2, action_size=None)
UPDATES_BEHIND = {1: 6, 2: 5, 3: 0}


def sight(age_s=0.0, allowance_s=0.0):
    return Sight(age_s=age_s, allowance_s=allowance_s, staleness=UPDATES_BEHIND.get)


def reason(episode, rules=RULES, **kwargs):
    problem = admit(episode, rules, sight(**kwargs))
    return problem and problem.reason


def test_a_fresh_fitting_episode_is_admitted(make_episode):
    assert admit(make_episode(), RULES, sight()) is None


@pytest.mark.parametrize(
    ("age_s", "allowance_s", "expected"),
    [
        (100.0, 0.0, None),
        (100.1, 0.0, "too_old"),
        (7300.0, 7200.0, None),
        (7301.0, 7200.0, "too_old"),
        (-300.0, 0.0, None),
        (-300.1, 0.0, "future"),
        (-7500.0, 7200.0, None),
    ],
)
def test_age_bounds_and_their_allowance_after_a_clock_step(make_episode, age_s, allowance_s, expected):
    assert reason(make_episode(), age_s=age_s, allowance_s=allowance_s) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [(None, None), (0, None), (3, None), (2, None), (1, "too_stale"), (4, "unknown_version")],
)
def test_staleness_is_counted_in_updates(make_episode, version, expected):
    assert reason(make_episode(policy_version=version)) == expected


def test_the_stalest_step_decides(make_episode):
    mixed = make_episode(policy_version=None, policy_version_step=np.array([0, 3, 1]))
    assert acting_versions(mixed) == [1, 3]
    assert reason(mixed) == "too_stale"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"policy_version": 2}, "rejected_version"),
        ({"policy_version": 3}, None),
        ({"policy_version": None, "policy_version_step": np.array([3, 2, 3])}, "rejected_version"),
        ({"policy_version": None, "policy_version_step": np.array([0, 3, 3])}, None),
        ({"policy_version": 4}, "unknown_version"),
    ],
)
def test_what_a_rejected_version_acted_in_is_refused_with_both_numbers(make_episode, fields, expected):
    at = replace(sight(), rejected={2: (1, 3), 4: (1, 3)}.get)
    problem = admit(make_episode(**fields), RULES, at)
    assert (problem and problem.reason) == expected
    if expected == "rejected_version":
        assert problem.field == "policy_version"
        assert problem.value == "2, rejected by the rollback to 1 (version 3)"
        assert problem.accepted == "version 3 or a later one"


def test_a_refusal_names_field_value_and_what_is_accepted(make_episode):
    problem = admit(make_episode(policy_version=1), RULES, sight())
    assert problem.field == "policy_version"
    assert problem.value == "1 (at least 6 updates behind)"
    assert "at most 5 updates" in problem.accepted
    assert "max_staleness" in problem.accepted


def test_width_strict_and_padded(make_episode):
    padded = Rules(max_age_s=100.0, max_staleness=5, width="padded", observation_shape=(4,), n_actions=2)
    assert reason(make_episode(width=3)) == "observation_width"
    assert reason(make_episode(width=3), padded) is None
    assert reason(make_episode(width=5), padded) == "observation_width"
    assert reason(make_episode(width=5)) == "observation_width"


def test_actions_must_fit_the_space(make_episode):
    assert reason(make_episode(action=np.array([0, 1, 2]))) == "action_space"
    assert reason(make_episode(action=np.zeros((3, 1), np.float32))) == "action_space"
    gaussian = Rules(max_age_s=100.0, max_staleness=5, observation_shape=(4,), action_size=1)
    assert reason(make_episode(action=np.zeros((3, 1), np.float32)), gaussian) is None
    assert reason(make_episode(action=np.zeros((3, 2), np.float32)), gaussian) == "action_space"
    assert reason(make_episode(), gaussian) == "action_space"


def test_a_mask_that_forbids_the_action_taken_is_refused_with_the_step(make_episode):
    mask = np.array([[True, True], [True, False], [True, True]])
    problem = admit(make_episode(action=np.array([0, 1, 0]), mask=mask), RULES, sight())
    assert problem.reason == "mask"
    assert problem.field == "mask[1]"
    assert reason(make_episode(action=np.array([0, 0, 0]), mask=mask)) is None
    assert reason(make_episode(mask=np.ones((3, 3), bool))) == "mask"


def test_one_step_without_a_successor_teaches_nothing(make_episode):
    alone = make_episode(steps=1, obs=np.zeros((1, 4), np.float32), terminated=False, incomplete=True)
    assert reason(alone) == "incomplete"


def test_before_the_shapes_are_known_any_shape_is_admitted(make_episode):
    open_rules = Rules(max_age_s=100.0, max_staleness=5)
    assert reason(make_episode(width=7, action=np.array([0, 9, 3])), open_rules) is None


@pytest.mark.parametrize("value", [1e38, -1e38, 2e12])
@pytest.mark.parametrize("field", ["obs", "reward", "logp"])
def test_absurd_magnitudes_never_reach_the_statistics(make_episode, field, value):
    arrays = {"obs": np.zeros((4, 4), np.float32), "reward": np.zeros(3), "logp": np.full(3, -1.0)}
    arrays[field][2] = -abs(value) if field == "logp" else value
    problem = admit(make_episode(**arrays), RULES, sight())
    assert (problem.reason, problem.field) == ("out_of_range", f"{field}[2]")


def test_large_but_sane_magnitudes_pass(make_episode):
    assert reason(make_episode(obs=np.full((4, 4), -1e12, np.float32), reward=np.full(3, 1e12))) is None


def test_one_file_cannot_define_a_policy_of_gigabytes(make_episode):
    unknown = Rules(max_age_s=100.0, max_staleness=5)
    wide = make_episode(obs=np.zeros((4, 2**18 + 1), np.uint8))
    far = make_episode(action=np.array([0, 1, 2**31 - 1]))
    declared = make_episode(action_space={"kind": "discrete", "n": 2**40})
    assert reason(wide, unknown) == "observation_width"
    assert [reason(episode, unknown) for episode in (far, declared)] == ["action_space"] * 2
    assert reason(make_episode(), unknown) is None


CHECKED = Rules(max_age_s=100.0, max_staleness=5, observation_shape=(4,), n_actions=2, logp_tolerance=0.01)


class Acted:
    """Gives -0.5 for the steps of version 3 and -1 for those of 2; others are gone. Notes what is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, version, obs, action, mask):
        self.asked.append((version, obs, action, mask))
        return {3: np.full(len(action), -0.5), 2: np.full(len(action), -1.0)}.get(version)


def claim(episode, rules=CHECKED, acted=None):
    acted = Acted() if acted is None else acted
    return admit(episode, rules, Sight(age_s=0.0, staleness={2: 1, 3: 0, 5: 1}.get, log_probs=acted))


def test_log_probabilities_that_contradict_the_version_are_refused_with_both_numbers(make_episode):
    problem = claim(make_episode(policy_version=3, logp=np.array([-0.5, -0.505, -0.7])))
    assert (problem.reason, problem.field) == ("logp_mismatch", "logp[2]")
    assert problem.value == "-0.7, version 3 gives -0.5"
    for said in ("within 0.01", "[admission] logp_tolerance", "temperature", "leaves policy_version out"):
        assert said in problem.accepted


@pytest.mark.parametrize(
    ("off", "refused"), [(0.0099, False), (-0.0099, False), (0.011, True), (-0.011, True)]
)
def test_the_tolerance_goes_both_ways(make_episode, off, refused):
    assert (claim(make_episode(policy_version=3, logp=np.full(3, -0.5 + off))) is not None) is refused


@pytest.mark.parametrize("fields", [{"policy_version": 5}, {"policy_version": 0}, {"policy_version": None}])
def test_without_the_version_that_acted_nothing_is_contradicted(make_episode, fields):
    assert claim(make_episode(logp=np.full(3, -9.0), **fields)) is None


def test_what_was_not_logged_or_is_not_to_be_checked_costs_nothing(make_episode):
    acted = Acted()
    assert claim(make_episode(policy_version=3, logp=None), acted=acted) is None
    unchecked = replace(CHECKED, logp_tolerance=0.0)
    assert claim(make_episode(policy_version=3, logp=np.full(3, -9.0)), unchecked, acted) is None
    assert acted.asked == []


def test_each_step_is_held_against_the_version_that_acted_in_it(make_episode):
    versions = np.array([3, 2, 0, 3, 2])
    right = np.array([-0.5, -1.0, -7.0, -0.5, -1.0])
    mask, acted = np.ones((5, 2), bool), Acted()
    episode = make_episode(steps=5, policy_version_step=versions, logp=right, mask=mask)
    assert claim(episode, acted=acted) is None
    assert [version for version, *_ in acted.asked] == [2, 3]
    np.testing.assert_array_equal(acted.asked[1][1], episode.obs[[0, 3]])
    np.testing.assert_array_equal(acted.asked[1][2], episode.action[[0, 3]])
    assert acted.asked[1][3].shape == (2, 2)
    wrong = make_episode(steps=5, policy_version_step=versions, logp=np.where(np.arange(5) == 4, -0.5, right))
    assert claim(wrong).field == "logp[4]"


def test_padded_observations_are_filled_up_before_they_are_asked_about(make_episode):
    acted = Acted()
    episode = make_episode(width=2, policy_version=3, logp=np.full(3, -0.5))
    assert claim(episode, replace(CHECKED, width="padded"), acted) is None
    ((_, obs, _, _),) = acted.asked
    assert (obs.shape, obs.dtype) == ((3, 4), np.float32)
    np.testing.assert_array_equal(obs[:, :2], episode.obs[:3])
    assert not obs[:, 2:].any()


def test_other_rules_come_first(make_episode):
    mask = np.array([[True, True], [True, False], [True, True]])
    episode = make_episode(policy_version=3, logp=np.full(3, -9.0), action=np.array([0, 1, 0]), mask=mask)
    assert claim(episode).reason == "mask"
