import pytest

from learnerd.config import Config
from learnerd.published_policy import policy_problems

SPACES = [
    {"observation_shape": [4], "action": {"kind": "discrete", "n": 2}},
    {"observation_shape": [4], "action": {"kind": "discrete", "n": 3, "start": 1}},
    {
        "observation": {"kind": "image", "shape": [6, 6, 3]},
        "action": {"kind": "multi_discrete", "nvec": [3, 2]},
    },
    {
        "observation": {
            "kind": "dict",
            "spaces": {"a": {"kind": "discrete", "n": 3}, "b": {"kind": "box", "shape": [2]}},
        },
        "action": {"kind": "continuous", "shape": [2]},
    },
    {"observation": {"kind": "box", "shape": [5]}, "action": {"kind": "multi_binary", "n": 3}},
]


def given(**policy):
    return Config.model_validate({"policy": policy})


def published(config):
    """As its manifest has it."""
    return config.policy.spec(config.policy.observation_space(), config.policy.action_space()).to_json()


@pytest.mark.parametrize("policy", SPACES)
def test_a_restart_with_the_same_words_asks_for_the_same_policy(policy):
    config = given(**policy)
    assert policy_problems(config, published(config)) == []
    assert policy_problems(config, {}) == []


@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("other", SPACES)
def test_other_spaces_are_named(policy, other):
    problems = policy_problems(given(**policy), published(given(**other)))
    assert bool(problems) == (policy != other)
    assert all(problem.key in {"action", "observation", "observation_shape"} for problem in problems)


def test_a_box_of_as_many_numbers_is_another_policy():
    parts = given(**SPACES[3])
    problems = policy_problems(given(observation_shape=[3]), published(parts))
    assert [problem.key for problem in problems] == ["observation"]


def test_another_network_is_named_where_it_would_choose_otherwise():
    image = {"observation": {"kind": "image", "shape": [6, 6, 3]}, "action": {"kind": "discrete", "n": 2}}
    was = published(given(**image))
    assert policy_problems(given(**image, network="conv"), was) == []
    (problem,) = policy_problems(given(**image, network="mlp"), was)
    assert (problem.key, problem.value) == ("network", '"mlp"')
    assert problem.accepted.startswith('"auto or conv')
    assert policy_problems(given(network="conv"), published(given(**SPACES[0]))) == []
