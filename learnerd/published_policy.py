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
    wanted = config.policy.model_dump(mode="json", exclude_none=True) | _spaces(config, published)
    published = {**published, **_network(config, published)}
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


def _network(config: Config, published: Mapping[str, object]) -> dict[str, object]:
    """A choice of encoders that gives those of the manifest, where the one that is asked for does not."""
    if "encoders" not in published or "network" not in config.policy.model_fields_set:
        return {}
    from experience.space_parsing import space_from_json  # noqa: PLC0415 - loads numpy
    from policies.encoders import NETWORKS, chosen_encoders  # noqa: PLC0415

    space, network = space_from_json(published["observation"]), config.policy.network
    same = [name for name in NETWORKS if list(chosen_encoders(space, name)) == published["encoders"]]
    return {} if network in same else {"network": " or ".join(same) or published["encoders"]}


def _spaces(config: Config, published: Mapping[str, object]) -> dict[str, object]:
    """Spaces as manifests write them."""
    found: dict[str, object] = {}
    action, observation = config.policy.action_space(), config.policy.observation_space()
    if action is not None:
        found["action"] = action.to_json()
    structured = config.policy.observation is not None or "observation" in published
    if observation is not None and structured:
        found["observation"] = observation.to_json()
        found["observation_shape"] = list(observation.stored_shape)
    return found
