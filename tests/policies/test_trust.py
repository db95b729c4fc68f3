import numpy as np
import pytest

from policies.trust import ALL, trust_by_ess
from policies.weighting import effective_sample_fraction


def trust(log_ratio, version, *, logged=None, minimum=0.3):
    log_ratio = np.asarray(log_ratio, np.float64)
    logged = np.ones(len(log_ratio), bool) if logged is None else np.asarray(logged)
    return trust_by_ess(log_ratio, logged, np.asarray(version), minimum=minimum)


def test_a_fresh_batch_is_learned_from_whole():
    found = trust([0.0, 0.1, -0.1, 0.0], [5, 5, 4, 4])
    assert found.kept is None
    assert found.factor == pytest.approx(effective_sample_fraction(np.array([0.0, 0.1, -0.1, 0.0])))


def test_a_stale_part_is_split_off_by_version():
    found = trust([0.0] * 8 + [9.0] + [0.0] * 7, [7] * 8 + [3] * 8)
    assert found.factor == 1.0
    np.testing.assert_array_equal(found.kept, [True] * 8 + [False] * 8)


def test_as_many_versions_are_kept_as_have_enough_together():
    found = trust([0.0] * 4 + [0.7, -0.7] * 2 + [12.0, 0.0], [9] * 4 + [8] * 4 + [2] * 2)
    np.testing.assert_array_equal(found.kept, [True] * 8 + [False] * 2)
    assert found.factor == pytest.approx(effective_sample_fraction(np.array([0.0] * 4 + [0.7, -0.7] * 2)))


def test_the_ratios_within_a_version_do_not_decide_which_of_its_steps_are_kept():
    found = trust([30.0, 0.0, 0.0, 0.0, 0.0], [6] * 5)
    assert (found.factor, found.kept) == (None, None)


def test_unknown_versions_count_as_the_oldest():
    found = trust([0.0, 0.0, 11.0, 0.0, 0.0, 0.0], [4, 4, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.kept, [True, True] + [False] * 4)


def test_unlogged_steps_go_with_what_is_kept():
    found = trust([0.0, 0.0, 11.0, 0.0, 0.0, 0.0], [4, 4, 2, 2, 2, 0], logged=[True] * 5 + [False])
    np.testing.assert_array_equal(found.kept, [True, True, False, False, False, True])
    assert trust([np.nan] * 3, [0] * 3, logged=[False] * 3) == ALL


def test_nan_is_never_trusted():
    assert trust([np.nan, 0.0], [1, 1]).factor is None
    found = trust([np.nan, 0.0], [1, 2])
    np.testing.assert_array_equal(found.kept, [False, True])
