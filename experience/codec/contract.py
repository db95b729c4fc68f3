"""What every reader of a file format takes and returns."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from experience.episode import Episode
from experience.errors import Problem
from experience.in_step import Steps


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may hold; everything above is ``too_large`` before it is parsed.

    Attributes:
        max_file_bytes: size of the file itself.
        max_decoded_bytes: sum of the arrays' sizes after decompression, and again as decoded; leaves room
            for copies within the decoder's 512 MiB of address space.
        max_members: members of a zip file; an episode has seven fields, extensions come on top.
        max_ratio: decoded bytes per byte of file. Observed files stay below 20.
        ratio_floor_bytes: no ratio is judged below this decoded size: a constant reward compresses 500-fold.
        max_json_depth: nesting of ``[`` and ``{``.
        max_number_characters: length of one JSON number.
        max_episodes: episodes in one file; as many small ones take 3 s.
    """

    max_file_bytes: int = 64 * 2**20
    max_decoded_bytes: int = 128 * 2**20
    max_members: int = 64
    max_ratio: int = 200
    ratio_floor_bytes: int = 2**20
    max_json_depth: int = 16
    max_number_characters: int = 64
    max_episodes: int = 20_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where bytes came from.

    Attributes:
        name: the file's name as the client gave it; may hold surrogate escapes.
        sha256: hex digest of the bytes.
        ingested_at: UTC seconds.
        limits: what is accepted.
    """

    name: str
    sha256: str
    ingested_at: float
    limits: Limits = field(default_factory=Limits)

    def episode_id(self, data: bytes, index: int) -> str:
        """Name an episode whose client gave no id: the same file under the same name gives the same id."""
        own = vars(self)
        if "_digest" not in own:  # once a file: it may hold many episodes
            digest = hashlib.sha256(self.name.encode(errors="surrogateescape"))
            digest.update(data)
            own["_digest"] = digest.hexdigest()
        return f"{own['_digest']}:{index}"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a file held: its episodes, and a problem with its index for each that could not be read."""

    episodes: tuple[Episode, ...] = ()
    problems: tuple[Problem, ...] = ()


Reader = Callable[[bytes, Source], Decoded]
"""A format's reader. It raises InputError where the whole file is concerned."""

SteppedReader = Callable[[bytes, Source], Steps[Decoded]]
"""The same in steps, for small files that are read in step with others."""
