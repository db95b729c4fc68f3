"""Actor archive: the policy networks of pruned versions, while files that they acted in may still come.

``state/actors/<8 digits>.safetensors`` holds what is needed to compute a version's log-probabilities: its
policy network, ``log_std`` and observation statistics, and as metadata its spec and its count of updates. The
metadata's ``sha256`` is that of the whole file with these 64 digits replaced by zeros.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from experience.durable import make_folder, write_atomic
from policies.checkpoint import ActingVersion
from policies.errors import NotAVersion, StoreError, VersionDamaged, VersionPruned
from policies.manifest import (
    BROKEN,
    VERSION_NAME,
    encode_model,
    parse_model,
    read_actor,
    read_manifest,
    version_folder,
)
from policies.scratch import sweep_files
from policies.spec import PolicySpec

SCHEMA = "1"
FOLDER = "actors"
SUFFIX = ".safetensors"
MOST_FILES = 4096
"""More than a policy ever had versions within a sensible ``max_staleness``."""
MOST_BYTES = 2**30
NO_DIGEST = "0" * 64


class ActorArchive:
    """What acted under each version: the version itself while it is there, then its file in ``state/actors``.

    Args:
        state_dir: the store's folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / FOLDER

    def read(self, version: int) -> ActingVersion:
        """What a version acts with.

        Raises:
            VersionPruned: neither the version nor its file is there.
            VersionDamaged: what is there is not as it was written.
            OSError: it cannot be read just now.
        """
        try:
            return _whole(self._state_dir, version)
        except (NotAVersion, VersionPruned):
            return self._archived(version)
        except VersionDamaged:
            with contextlib.suppress(VersionPruned):
                return self._archived(version)
            raise

    def updates(self, version: int) -> int:
        """How many updates a version and its ancestors made; raises as ``read``."""
        try:
            return int(read_manifest(version_folder(self._state_dir, version), version)["updates_total"])
        except (VersionPruned, VersionDamaged):
            return self._archived(version).updates

    def versions(self) -> list[int]:
        """The numbers of the files, ascending."""
        return sorted(self._sizes())

    def keep(self, versions: Sequence[int], *, from_updates: int = 0) -> None:
        """Write the files of versions that are about to go, durably.

        Not of those that are damaged: they tell no log-probabilities either.

        Args:
            versions: their numbers, ascending.
            from_updates: those that have made fewer are not kept, but for the youngest of them: it tells that
                the ones before it have made no more.
        """
        for version in reversed(versions):
            try:
                acting = _whole(self._state_dir, version)
            except StoreError:
                continue
            make_folder(self._folder)
            write_atomic(self._path(version), _encode(acting))
            if acting.updates < from_updates:
                return

    def retain(self, *, from_updates: int) -> None:
        """Remove what ``keep`` would not write, and the oldest files beyond a bound."""
        sizes = self._sizes()
        ordered = sorted(sizes)
        old = list(takewhile(lambda version: not self._is_fresh(version, from_updates), ordered))
        first = max(0, len(old) - 1, len(ordered) - MOST_FILES)
        while sum(sizes[version] for version in ordered[first:]) > MOST_BYTES:
            first += 1
        for version in ordered[:first]:
            self._path(version).unlink(missing_ok=True)

    def sweep(self, now_s: float) -> None:
        """Remove what killed writers left behind."""
        sweep_files(self._folder, now_s)

    def _is_fresh(self, version: int, from_updates: int) -> bool:
        try:
            return self._archived(version).updates >= from_updates
        except StoreError:
            return False

    def _archived(self, version: int) -> ActingVersion:
        try:
            data = self._path(version).read_bytes()
        except FileNotFoundError:
            raise VersionPruned(version=version) from None
        except OSError as error:
            if error.errno not in BROKEN:
                raise
            raise VersionDamaged(version=version, file=_name(version), reason=str(error.strerror)) from error
        return _decode(data, version)

    def _sizes(self) -> dict[int, int]:
        try:
            with os.scandir(self._folder) as entries:
                return {
                    int(entry.name[:8]): entry.stat(follow_symlinks=False).st_size
                    for entry in entries
                    if VERSION_NAME.fullmatch(entry.name.removesuffix(SUFFIX))
                }
        except FileNotFoundError:
            return {}

    def _path(self, version: int) -> Path:
        return self._state_dir / _name(version)


def _name(version: int) -> str:
    return f"{FOLDER}/{version:08d}{SUFFIX}"


def _whole(state_dir: Path, version: int) -> ActingVersion:
    """From the version's own files."""
    spec, weights, normalizer, manifest = read_actor(state_dir, version)
    return ActingVersion(
        version=version,
        updates=manifest["updates_total"],
        spec=spec,
        weights={name: weights[name] for name in spec.actor_shapes()},
        normalizer=normalizer,
    )


def _encode(acting: ActingVersion) -> bytes:
    facts = {
        "schema": SCHEMA,
        "version": str(acting.version),
        "updates": str(acting.updates),
        "spec": json.dumps(acting.spec.to_json()),
        "sha256": NO_DIGEST,
    }
    blank = encode_model(acting.weights, acting.normalizer, facts)
    return blank.replace(NO_DIGEST.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def _decode(data: bytes, version: int) -> ActingVersion:
    """Read what ``_encode`` wrote; a single flipped bit is noticed.

    Raises:
        VersionDamaged: it is something else.
    """
    name = _name(version)
    facts = _metadata(data)
    digest = str(facts.get("sha256"))
    blank = data.replace(digest.encode(), NO_DIGEST.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != digest:
        raise VersionDamaged(version=version, file=name, reason="does not match its own sha256")
    if (facts["schema"], facts["version"]) != (SCHEMA, str(version)):
        found = f"is version {facts['version']} in schema {facts['schema']}"
        raise VersionDamaged(version=version, file=name, reason=found)
    spec = PolicySpec.from_json(json.loads(facts["spec"]))
    weights, normalizer = parse_model(data, spec, version, name=name, shapes=spec.actor_shapes())
    return ActingVersion(
        version=version, updates=int(facts["updates"]), spec=spec, weights=weights, normalizer=normalizer
    )


def _metadata(data: bytes) -> dict[str, Any]:
    """The metadata in the header of a safetensors file; {} when it has none."""
    try:
        facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
