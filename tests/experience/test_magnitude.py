import numpy as np
import pytest

from experience.magnitude import is_finite, norm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_entry_that_is_not_finite_is_found(dtype, bad):
    array = np.full((40, 3), -2.5, dtype)
    assert is_finite(array)
    for where in [(0, 0), (39, 2), (17, 1)]:
        spoiled = array.copy()
        spoiled[where] = bad
        assert not is_finite(spoiled)
        assert not is_finite(spoiled[:, ::-1])
    both = array.copy()
    both[3, 0], both[4, 0] = np.inf, -np.inf
    assert not is_finite(both)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_whose_squares_overflow_are_finite(dtype):
    array = np.full(100, np.finfo(dtype).max, dtype)
    assert norm(array) == np.inf
    assert is_finite(array)


def test_no_entry_is_larger_than_the_norm():
    array = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    assert norm(array) == pytest.approx(np.sqrt((array.astype(float) ** 2).sum()), rel=1e-5)
    assert np.abs(array).max() <= norm(array)
    assert norm(np.empty(0)) == 0.0
