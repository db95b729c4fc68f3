import pytest

from policies.settings import InvalidSetting, LearnerSettings


def test_defaults():
    settings = LearnerSettings()
    assert settings.algorithm == "ppo"
    assert (settings.learning_rate, settings.epochs, settings.minibatches) == (5e-4, 4, 4)
    assert (settings.ratio_cap, settings.prox_decay, settings.ess_min) == (10.0, 0.889, 0.3)
    assert settings.averages_proximal


@pytest.mark.parametrize(
    ("epochs", "minibatches", "given", "decay"),
    [(4, 4, "auto", 0.889), (10, 25, "auto", 0.9924982), (1, 1, "auto", 0.1522047), (10, 25, 0.889, 0.889)],
)
def test_the_proximal_policys_memory_follows_the_steps_of_an_update(epochs, minibatches, given, decay):
    settings = LearnerSettings(epochs=epochs, minibatches=minibatches, prox_decay=given)
    assert settings.proximal_decay == pytest.approx(decay)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("learning_rate", 0.0, "a number > 0"),
        ("learning_rate", float("nan"), "a number > 0"),
        ("learning_rate", True, "a number > 0"),
        ("gamma", 1.01, "a number >= 0 and <= 1"),
        ("prox_decay", 1.0, '"auto" or a number >= 0 and < 1'),
        ("prox_decay", "none", '"auto" or a number >= 0 and < 1'),
        ("epochs", 0, "an integer >= 1"),
        ("epochs", 2.0, "an integer >= 1"),
        ("algorithm", "dqn", '"ppo" or "reinforce"'),
        ("decoupled", 1, "true or false"),
        ("baseline", "ema", '"value" with algorithm "ppo"'),
        ("lr_scaling", "sum", '"sqrt", "linear" or "none" with algorithm "ppo"'),
    ],
)
def test_a_bad_value_is_named(key, value, accepted):
    with pytest.raises(InvalidSetting) as caught:
        LearnerSettings(**{key: value})
    assert caught.value.key == key
    assert caught.value.accepted == accepted
    assert f"learner.{key} is {value!r}" in str(caught.value)


def test_reinforce_takes_every_baseline():
    for baseline in ("value", "ema", "batch_mean", "leave_one_out"):
        settings = LearnerSettings(algorithm="reinforce", baseline=baseline, lr_scaling="sum")
        assert not settings.averages_proximal
