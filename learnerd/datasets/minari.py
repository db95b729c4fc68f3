"""Minari: datasets by their names, in the local folder of datasets (MINARI_DATASETS_PATH)."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from experience.episode import Episode
from experience.errors import reject
from experience.flattening import flatten
from experience.journal import from_plain, to_plain
from experience.space_parsing import action_space_of, space_of
from learnerd.datasets import Losses
from learnerd.datasets.nesting import gym_space_of, same, unflatten

try:
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.serialization import deserialize_space, serialize_space
except ImportError as error:  # pragma: no cover - the message is what matters
    raise ImportError("Minari datasets need minari: pip install 'learnerd[minari]'") from error

NOTE = "minari"
"""The extension in which an episode keeps what only Minari knows of it."""
_TOGETHER = 64
"""Episodes that are written at once."""


def read(source: str, losses: Losses, names: Mapping[str, str]) -> Iterator[Episode]:
    """Yield the episodes of a dataset; see ``Format.read``."""
    if names:
        raise ValueError(f"--map {next(iter(names))}: accepted with tables only")
    dataset = _loaded(source)
    note = {
        "dataset": source,
        "observation_space": serialize_space(dataset.observation_space),
        "action_space": serialize_space(dataset.action_space),
        "env": None if dataset.env_spec is None else dataset.env_spec.to_json(),
    }
    for data in dataset.iterate_episodes():
        (metadata,) = dataset.storage.get_episode_metadata([data.id])
        yield _episode(data, dataset, metadata, note, losses)


def _loaded(source: str) -> Any:
    try:
        return minari.load_dataset(source)
    except FileNotFoundError:
        accepted = (
            f"one of `minari list local` (`minari download {source}` gets it), or a .csv or .parquet file"
        )
        raise FileNotFoundError(f"no Minari dataset of this name is here; accepted: {accepted}") from None


def _episode(
    data: Any, dataset: Any, metadata: Mapping[str, Any], note: Mapping[str, Any], losses: Losses
) -> Episode:
    name = f"{note['dataset']}/{data.id:08d}"
    seen, actions = space_of(dataset.observation_space), action_space_of(dataset.action_space)
    steps = len(data.rewards)
    rows = flatten(seen, data.observations, lead=(steps + 1,))
    taken = np.asarray(data.actions).reshape(steps, *np.shape(data.actions)[1:])
    action = (taken - getattr(actions, "start", 0)).astype(
        np.float32 if taken.dtype.kind == "f" else np.int64
    )
    ended = data.terminations[:-1].any() or data.truncations[:-1].any()
    if ended or not (data.terminations[-1] or data.truncations[-1]):
        raise reject(
            "bad_value", name, "an end elsewhere than at the last step", "terminated or truncated there"
        )
    back = unflatten(dataset.observation_space, rows)
    losses.add("observations beyond what float32 holds", when=not same(back, data.observations))
    losses.add(
        "actions beyond what float32 holds",
        when=not np.array_equal(action, taken - getattr(actions, "start", 0)),
    )
    seed = metadata.get("seed")
    return Episode(
        episode_id=name,
        obs=rows,
        action=action,
        reward=np.asarray(data.rewards, np.float64),
        terminated=bool(data.terminations[-1]),
        truncated=bool(data.truncations[-1]),
        env_id=None if dataset.env_spec is None else dataset.env_spec.id,
        seed=None if seed is None else int(seed),
        action_space=actions.canonical().to_json(),
        observation_space=seen.canonical().to_json(),
        info_json=json.dumps(to_plain(data.infos)) if data.infos else None,
        extensions={NOTE: dict(note)},
    )


def lost(episode: Episode, losses: Losses) -> None:
    """Tell what Minari has no place for; see ``Format.lost``."""
    unseen = len(episode.obs) == episode.n_steps
    losses.add("no last observation was recorded: the one before stands for it", when=unseen)
    losses.add("log-probabilities", when=episode.logp is not None)
    losses.add("masks", when=episode.mask is not None)
    versions = episode.policy_version_step is not None or bool(episode.policy_version)
    losses.add("the versions that acted", when=versions)
    losses.add(
        "agents and pieces of sessions are episodes of their own",
        when=bool(episode.agent_id or episode.segment),
    )
    losses.add("an end that was never recorded counts as truncated", when=episode.incomplete)
    losses.add("info", when=episode.info_json is not None and not _is_ours(episode))


def write(episodes: Iterable[Episode], target: str) -> int:
    """Write a dataset; see ``Format.write``."""
    remaining = iter(episodes)
    dataset, written, first = None, 0, None
    while chunk := list(islice(remaining, _TOGETHER)):
        first = first or chunk[0]
        spaces = _spaces(first)
        buffers = [_buffer(episode, first, spaces) for episode in chunk]
        if dataset is None:
            dataset = _begin(target, buffers, _env(first), spaces)
        else:
            dataset.update_dataset_from_buffer(buffers)
        written += len(chunk)
    return written


def _begin(target: str, buffers: list[Any], env: Any, spaces: tuple[Any, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no link to code, and no author
        return minari.create_dataset_from_buffers(
            target,
            buffers,
            env=env,
            observation_space=spaces[0],
            action_space=spaces[1],
            jpeg_encoding=False,  # the default changes pixels
        )


def _spaces(episode: Episode) -> tuple[Any, Any]:
    """What the dataset that it came from said, else what the episode says."""
    note = episode.extensions.get(NOTE)
    if note is not None:
        return deserialize_space(note["observation_space"]), deserialize_space(note["action_space"])
    if episode.action_space is None:
        raise reject(
            "missing_field", "action_space", "none", f"one in the header of episode {episode.episode_id}"
        )
    shape = {"kind": "box", "shape": list(episode.obs.shape[1:])}
    return gym_space_of(episode.observation_space or shape), gym_space_of(episode.action_space)


def _env(episode: Episode) -> Any:
    text = episode.extensions.get(NOTE, {}).get("env")
    if text is None:
        return None
    from gymnasium.envs.registration import EnvSpec  # noqa: PLC0415 - an extra

    return EnvSpec.from_json(text)


def _buffer(episode: Episode, first: Episode, spaces: tuple[Any, Any]) -> Any:
    for name in ("observation_space", "action_space"):
        if getattr(episode, name) != getattr(first, name):
            raise reject(
                "bad_value",
                f"{name} of episode {episode.episode_id}",
                str(getattr(episode, name)),
                f"that of episode {first.episode_id}: {getattr(first, name)}",
            )
    rows = episode.obs
    if len(rows) == episode.n_steps:
        rows = np.concatenate([rows, rows[-1:]])
    start = getattr(spaces[1], "start", 0)
    ends = np.zeros((2, episode.n_steps), bool)
    ends[:, -1] = episode.terminated, episode.truncated
    return EpisodeBuffer(
        seed=episode.seed,
        observations=unflatten(spaces[0], rows),
        actions=(episode.action + start if np.any(start) else episode.action).astype(spaces[1].dtype),
        rewards=episode.reward,
        terminations=ends[0],
        truncations=ends[1],
        infos=from_plain(json.loads(episode.info_json or "{}")) if _is_ours(episode) else {},
    )


def _is_ours(episode: Episode) -> bool:
    return NOTE in episode.extensions and episode.info_json is not None
