"""A policy that the configuration names is the same one at the next start."""

import json

import pytest

from learnerd.config import Config
from learnerd.cycle import configured_spec
from learnerd.published_policy import policy_problems

SPACES = [
    {"observation_shape": [3], "action": {"kind": "discrete", "n": 2}},
    {"observation_shape": [3], "action": {"kind": "discrete", "n": 2, "start": -1}},
    {
        "observation": {"kind": "dict", "spaces": {"a": {"kind": "discrete", "n": 3}}},
        "action": {"kind": "continuous", "shape": [2]},
    },
    {"observation": {"kind": "box", "shape": [2, 2]}, "action": {"kind": "multi_discrete", "nvec": [2, 3]}},
]


@pytest.mark.parametrize("policy", SPACES)
def test_what_it_names_is_what_its_first_version_has(tmp_path, policy):
    config = Config.model_validate(
        {"paths": {"spool": tmp_path / "spool", "state": tmp_path / "state"}, "policy": policy}
    )
    published = json.loads(json.dumps(configured_spec(config).to_json()))
    assert policy_problems(config, published) == []
    published["action"] = {"kind": "discrete", "n": 7}
    assert [problem.key for problem in policy_problems(config, published)] == ["action"]
