import numpy as np
import pytest

from experience.collate import collate, usable_steps


def test_episodes_lie_end_to_end_with_offsets(make_episode):
    first, second = make_episode("a", steps=3, seed=1), make_episode("b", steps=2, seed=2, policy_version=7)
    batch = collate([first, second], observation_shape=(4,))
    assert batch.offsets.tolist() == [0, 3, 5]
    assert (batch.n_episodes, batch.n_steps) == (2, 5)
    np.testing.assert_array_equal(batch.obs, np.concatenate([first.obs[:3], second.obs[:2]]))
    np.testing.assert_array_equal(batch.action, np.concatenate([first.action, second.action]))
    np.testing.assert_array_equal(batch.policy_version, [0, 0, 0, 7, 7])
    np.testing.assert_allclose(batch.total_reward, [first.reward.sum(), second.reward.sum()])


def test_only_what_did_not_terminate_has_something_to_bootstrap_from(make_episode):
    ended = make_episode("a", terminated=True)
    cut = make_episode("b", terminated=False, truncated=True)
    batch = collate([ended, cut], observation_shape=(4,))
    np.testing.assert_array_equal(batch.final_obs[0], 0.0)
    np.testing.assert_array_equal(batch.final_obs[1], cut.obs[-1])
    assert batch.terminated.tolist() == [True, False]


def test_an_incomplete_episode_gives_up_its_last_step(make_episode):
    obs = np.arange(12, dtype=np.float32).reshape(3, 4)
    prefix = make_episode(obs=obs, terminated=False, incomplete=True, reward=np.array([1.0, 2.0, 100.0]))
    assert usable_steps(prefix) == 2
    batch = collate([prefix], observation_shape=(4,))
    assert batch.total_reward.tolist() == [3.0]
    np.testing.assert_array_equal(batch.final_obs[0], obs[2])


def test_narrow_observations_are_filled_with_zeros(make_episode):
    batch = collate([make_episode(width=2), make_episode("b", width=4)], observation_shape=(4,))
    np.testing.assert_array_equal(batch.obs[:3, 2:], 0.0)
    assert (batch.obs[3:, 2:] != 0).all()


def test_images_stay_bytes_and_numbers_become_float32(make_episode):
    image = make_episode(obs=np.arange(16, dtype=np.uint8).reshape(4, 2, 2), terminated=False, truncated=True)
    batch = collate([image], observation_shape=(2, 2))
    assert batch.obs.dtype == batch.final_obs.dtype == np.uint8
    assert batch.final_obs[0].tolist() == [[12, 13], [14, 15]]
    numbers = make_episode(obs=np.arange(16.0).reshape(4, 4), terminated=False, truncated=True)
    batch = collate([numbers], observation_shape=(4,))
    assert batch.obs.dtype == batch.final_obs.dtype == np.float32


def test_missing_log_probabilities_are_nan_and_missing_masks_allow_all(make_episode):
    mask = np.array([[True, True], [True, True], [True, True]])
    batch = collate([make_episode("a", logp=None), make_episode("b", mask=mask)], observation_shape=(4,))
    assert np.isnan(batch.logp[:3]).all()
    assert np.isfinite(batch.logp[3:]).all()
    assert batch.mask.shape == (6, 2)
    assert batch.mask.all()


@pytest.mark.parametrize("steps", [1, 4])
def test_versions_by_step_win_over_the_header(make_episode, steps):
    versions = np.arange(1, steps + 1)
    batch = collate([make_episode(steps=steps, policy_version_step=versions)], observation_shape=(4,))
    np.testing.assert_array_equal(batch.policy_version, versions)
