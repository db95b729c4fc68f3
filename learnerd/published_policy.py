"""``[policy]`` held against the policy that a state folder already has: it holds one, for good."""

import json
from collections.abc import Mapping

from learnerd.config import Config
from learnerd.errors import ConfigProblem


def policy_problems(config: Config, published: Mapping[str, object]) -> list[ConfigProblem]:
    """Name each key of ``[policy]`` that asks for another policy.

    Args:
        config: the configuration.
        published: the policy as its manifest describes it; {} when there is none.
    """
    wanted = config.policy.model_dump(mode="json", exclude_none=True) | _spaces(config)
    return [
        ConfigProblem(
            source=str(config.file or "config"),
            table="policy",
            key=key,
            value=json.dumps(value),
            accepted=f"{json.dumps(published[key])}, as in the policy in {config.paths.state}",
            hint="another policy needs a state folder of its own",
        )
        for key, value in wanted.items()
        if key in published and published[key] != value
    ]


def _spaces(config: Config) -> dict[str, object]:
    """Spaces as manifests write them."""
    found: dict[str, object] = {}
    action, observation = config.policy.action_space(), config.policy.observation_space()
    if action is not None:
        found["action"] = action.to_json()
    if observation is not None and config.policy.observation is not None:
        found["observation"] = observation.to_json()
        found["observation_shape"] = list(observation.stored_shape)
    return found
