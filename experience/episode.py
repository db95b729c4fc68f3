"""Episode: one (episode, segment, agent), checked once, then frozen."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property, lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experience.errors import InputError, reject
from experience.magnitude import largest, norm

SCHEMA_VERSION = 1


class EpisodeKey(NamedTuple):
    """What makes an episode unique in the ledger."""

    client_id: str
    episode_id: str
    segment: int
    agent_id: str

    def digest(self) -> bytes:
        """16 bytes that stand for the key in the ledger: sha256 over its JSON, cut."""
        return hashlib.sha256(self.json().encode()).digest()[:16]

    def json(self) -> str:
        """As ``json.dumps``, in a third of the time."""
        texts = self.client_id, self.episode_id, self.agent_id
        client, episode, agent = map(encode_basestring_ascii, texts)
        return f"[{client}, {episode}, {self.segment}, {agent}]"


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One (episode, segment, agent) with T steps; every array is read-only and finite.

    Attributes:
        episode_id: the client's id; UUIDv7 is best.
        segment: position of this piece in a session that never ends; 0 otherwise.
        client_id: who wrote it; "" when it did not say.
        agent_id: which agent of a shared environment; "" when there is one.
        env_id, seed, tags: as the client gave them.
        policy_version: the version that acted; None or 0: none of ours.
        policy_digest: sha256 of that version's model file, when the client noted it.
        started_at, ended_at, ingested_at: UTC, seconds since 1970, rounded to microseconds.
        source_sha256: sha256 of the file that it came from.
        source_name: that file's name.
        terminated, truncated: as the client said; never inferred.
        incomplete: the file held no end for it: a prefix of an episode.
        action: [T] int64 (discrete), [T, F] int64 (several choices at once) or [T, A] float32 (continuous).
        reward: [T] float64.
        obs: [T + 1, ...] float32 or uint8; [T, ...] only when terminated or incomplete.
        logp: [T] float64 log-probability under the behavior policy, or None.
        mask: [T, N] bool, True where an action was allowed, or None.
        policy_version_step: [T] int64, when the version changed during the episode, or None.
        action_space, observation_space, observation_shape: as declared by the client, or None; spaces in JSON
            (``experience.space_parsing.row_space_json``); what they count, counts from 0.
        info_json, extensions: passed through.
    """

    episode_id: str
    action: NDArray[Any]
    reward: NDArray[np.float64]
    obs: NDArray[Any]
    terminated: bool
    truncated: bool
    incomplete: bool = False
    segment: int = 0
    client_id: str = ""
    agent_id: str = ""
    env_id: str | None = None
    seed: int | None = None
    tags: tuple[str, ...] = ()
    policy_version: int | None = None
    policy_digest: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    ingested_at: float = 0.0
    source_sha256: str = ""
    source_name: str = ""
    logp: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None
    policy_version_step: NDArray[np.int64] | None = None
    action_space: Mapping[str, Any] | None = None
    observation_space: Mapping[str, Any] | None = None
    observation_shape: tuple[int, ...] | None = None
    info_json: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check lengths, shapes and values once; raises InputError naming the field."""
        check_identity(self)
        _check_lengths(self)
        own = vars(self)
        own["_norms"] = checked_norms(own)
        check_values(self)
        for name in ("started_at", "ended_at", "ingested_at"):
            if own[name] is not None:
                own[name] = to_microseconds(float(own[name]))
        for name in ARRAYS:
            array = own[name]
            if array is not None and array.flags.writeable:
                array.setflags(write=False)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Episode":
        """Return ``Episode(**values)``, checked as such, in less time than a frozen dataclass takes.

        Raises:
            TypeError: a field that is not known, or one that is missing.
        """
        episode = object.__new__(cls)
        given = vars(episode)
        given.update(DEFAULTS, extensions={})
        given.update(values)
        if len(given) != len(cls.__dataclass_fields__) or not values.keys() >= REQUIRED:
            raise TypeError(f"fields {sorted(values)}; accepted: those of Episode")
        episode.__post_init__()
        return episode

    @cached_property
    def key(self) -> EpisodeKey:
        """The ledger key."""
        return EpisodeKey(self.client_id, self.episode_id, self.segment, self.agent_id)

    @property
    def norms(self) -> Mapping[str, float]:
        """How large the numbers of each floating array are at most, by its name.

        √Σ x² of this episode, or of all those that it was checked together with.
        """
        found: Mapping[str, float] = vars(self)["_norms"]
        return found

    @property
    def n_steps(self) -> int:
        """T."""
        return len(self.reward)

    @property
    def total_reward(self) -> float:
        """The undiscounted return."""
        return float(self.reward.sum())

    @cached_property
    def row_sha256(self) -> str:
        """Sha256 of the canonical row: what "the same bytes" means. Leaves out where it came from and when.

        Covers identity, versions, outcome and every step; not ``ingested_at``, ``source_*``.
        """
        before, after = _hashed_header(
            self.env_id, self.seed, self.policy_version, self.terminated, self.truncated, self.incomplete
        )
        pieces: list[Any] = [f"{before}{self.key.json()}{after}".encode()]
        given = vars(self)
        n_bytes = 0
        for name in ARRAYS:
            array = given[name]
            if array is not None:
                code = _CODES.get(array.dtype) or array.dtype.str
                pieces += f"{name}{code}{array.shape}".encode(), np.ascontiguousarray(array)
                n_bytes += array.nbytes
        if n_bytes < _SMALL_BYTES:
            return hashlib.sha256(b"".join(pieces)).hexdigest()
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()


ARRAYS = ("obs", "action", "reward", "logp", "mask", "policy_version_step")
_FLOATS = ("obs", "action", "reward", "logp")
DEFAULTS = {item.name: item.default for item in fields(Episode) if item.default is not MISSING}
REQUIRED = {item.name for item in fields(Episode)} - DEFAULTS.keys() - {"extensions"}
_CODES = {dtype: dtype.str for dtype in map(np.dtype, (np.float32, np.float64, np.int64, np.uint8, np.bool_))}
_SMALL_BYTES = 2**18
"""Below, one call of the hash over a copy takes less time than a call for each array."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
MAX_ID_CHARACTERS = 256
MAX_ACTION = 2**31 - 1
"""Largest discrete action: far above any action space, and exact in every number format that we store."""


@lru_cache(maxsize=256, typed=True)  # most episodes of a client say the same
def _hashed_header(
    env_id: str | None, seed: int | None, policy_version: int | None, *outcome: bool
) -> tuple[str, str]:
    """What stands before and after the key in the JSON, with sorted keys, that a row's hash begins with."""
    before = json.dumps({"env_id": env_id})
    after = json.dumps({"outcome": outcome, "policy_version": policy_version, "seed": seed})
    return f'{before[:-1]}, "key": ', f", {after[1:]}"


def to_microseconds(seconds: float) -> float:
    """``round(seconds, 6)``, which takes five times as long for what is rounded already; zero has no sign."""
    is_rounded = abs(seconds) < 2**32 and round(seconds * 1e6) / 1e6 == seconds
    return (seconds if is_rounded else round(seconds, 6)) + 0.0


def check_identity(episode: Episode) -> None:
    """Refuse ids and texts that cannot be kept; raises InputError naming the field."""
    given = vars(episode)
    for name in ("episode_id", "client_id", "agent_id"):
        text = given[name]
        if not isinstance(text, str) or len(text) > MAX_ID_CHARACTERS or not text.isprintable():
            raise reject("bad_value", name, text, f"printable text of at most {MAX_ID_CHARACTERS} characters")
    for name in ("env_id", "policy_digest", "info_json", "tags"):
        value = given[name]
        text = value if isinstance(value, str) else "".join(value or ())
        if not text.isascii() and _SURROGATE.search(text):
            raise reject("bad_value", name, ascii(text), "Unicode text, without lone surrogates")
    if not episode.episode_id:
        raise reject("bad_value", "episode_id", "''", "text that is not empty")
    if episode.segment < 0:
        raise reject("bad_value", "segment", episode.segment, "an integer >= 0")
    if episode.policy_version is not None and episode.policy_version < 0:
        raise reject("bad_value", "policy_version", episode.policy_version, "null or an integer >= 0")


def _check_lengths(episode: Episode) -> None:
    steps = len(episode.reward)
    if steps == 0:
        raise reject("bad_shape", "reward", "0 steps", "at least one step")
    if episode.reward.ndim != 1:
        raise reject("bad_shape", "reward", f"shape {episode.reward.shape}", "shape [T]")
    if episode.action.ndim not in (1, 2):
        raise reject("bad_shape", "action", f"shape {episode.action.shape}", "shape [T] or [T, A]")
    for name in ("action", "logp", "mask", "policy_version_step"):
        array = getattr(episode, name)
        if array is not None and len(array) != steps:
            raise reject("bad_shape", name, f"{len(array)} steps", f"{steps} steps, as in reward")
    if episode.obs.ndim < 1 or not _rows_fit(episode, steps):
        accepted = f"{steps + 1} rows (T + 1)" + (f", or {steps} when terminated" * episode.terminated)
        raise reject("bad_shape", "obs", f"{len(episode.obs)} rows", accepted)


def _rows_fit(episode: Episode, steps: int) -> bool:
    open_ended = episode.terminated or episode.incomplete
    return len(episode.obs) == steps + 1 or (open_ended and len(episode.obs) == steps)


def checked_norms(given: Mapping[str, Any]) -> dict[str, float]:
    """Norms of what is floating; finite ones are those of finite numbers, and most others are not.

    Raises:
        InputError: a number is not finite.
    """
    norms = {}
    for name in _FLOATS:
        array = given[name]
        if array is not None and array.dtype.kind == "f":
            norms[name] = size = norm(array)
            if not size < math.inf and not np.isfinite(array).all():
                raise _not_finite(name, array)
    return norms


def _not_finite(name: str, array: NDArray[Any]) -> InputError:
    rows = array.reshape(len(array), -1)
    bad = ~np.isfinite(rows)
    step = int(np.flatnonzero(bad.any(axis=1))[0])
    return reject("not_finite", f"{name}[{step}]", str(rows[step][bad[step]][0]), "finite numbers")


def check_values(episode: Episode) -> None:
    """Refuse what no discrete action or its log-probability can be; raises InputError naming the field."""
    if episode.action.dtype.kind != "i":
        return
    action = episode.action
    unsigned = action.view(_UNSIGNED[action.itemsize])  # without its sign -1 is large
    if action.size and largest(unsigned) > MAX_ACTION:
        extreme = int(action.min()) if action.min() < 0 else int(action.max())
        raise reject("bad_value", "action", extreme, f"integers 0 … {MAX_ACTION}")
    if episode.logp is not None and (highest := largest(episode.logp)) > 1e-6:  # noqa: PLR2004 - rounding in float32
        raise reject("bad_value", "logp", highest, "log-probabilities <= 0")
