import numpy as np
import pytest

from policies.popart import ValueScale, head_change


def test_head_keeps_its_values():
    factor, shift = head_change(ValueScale(mean=0.0, std=1.0), ValueScale(mean=3.0, std=4.0))
    assert 2.0 * factor == 0.5
    assert 1.0 * factor + shift == -0.5


def test_moving_the_scale_changes_no_value():
    old = ValueScale(mean=-2.0, std=0.7)
    new = old.moved(ValueScale.of(np.array([5.0, 9.0, 1.0]), std_min=0.01), rate=0.1)
    factor, shift = head_change(old, new)
    output = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(new.denormalized(output * factor + shift), old.denormalized(output))
    assert new.mean == pytest.approx(0.9 * -2.0 + 0.1 * 5.0)
    assert new.std == pytest.approx(0.9 * 0.7 + 0.1 * np.std([5.0, 9.0, 1.0]))


def test_constant_returns_have_the_smallest_deviation():
    assert ValueScale.of(np.full(5, 3.0), std_min=0.01) == ValueScale(mean=3.0, std=0.01)


def test_normalized_is_the_inverse():
    scale = ValueScale(mean=4.0, std=2.5)
    np.testing.assert_allclose(scale.normalized(scale.denormalized(np.array([-1.0, 0.3]))), [-1.0, 0.3])
