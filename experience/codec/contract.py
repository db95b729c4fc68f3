"""What every reader of a file format takes and returns."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from experience.episode import Episode
from experience.errors import Problem, reject
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
    """What a file held: its episodes, and a problem with its index for each that could not be read.

    Attributes:
        episodes: in the order of the file.
        problems: ascending by index.
        recorded: what the file says that each episode's ``row_sha256`` is, None where it does not; () where
            that has been compared, or nothing is said of any. Nothing to build on before ``checked``.
    """

    episodes: tuple[Episode, ...] = ()
    problems: tuple[Problem, ...] = ()
    recorded: tuple[str | None, ...] = ()

    def checked(self) -> "Decoded":
        """Compare: an episode whose row is another than the file says becomes a problem.

        Raises:
            ValueError: ``recorded`` says something of more or fewer episodes.
        """
        if not self.recorded:
            return self
        unread = {problem.index for problem in self.problems}
        places = (place for place in count() if place not in unread)
        pairs = zip(self.episodes, self.recorded, strict=True)
        kept, problems = [], list(self.problems)
        for place, (episode, recorded) in zip(places, pairs, strict=False):
            if recorded is None or recorded == episode.row_sha256:
                kept.append(episode)
            else:
                problems.append(_other_row(episode, recorded, place))
        problems.sort(key=lambda problem: problem.index or 0)
        return Decoded(episodes=tuple(kept), problems=tuple(problems))


def _other_row(episode: Episode, recorded: str, index: int) -> Problem:
    accepted = f"{episode.row_sha256}, the sha256 of this row; leave the column out of rows that you change"
    return reject("bad_value", "row_sha256", recorded, accepted, index=index).problem


Reader = Callable[[bytes, Source], Decoded]
"""A format's reader. It raises InputError where the whole file is concerned."""

SteppedReader = Callable[[bytes, Source], Steps[Decoded]]
"""The same in steps, for small files that are read in step with others."""
