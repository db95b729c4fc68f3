"""Arrival: one claimed file on its way to being learned from."""

from dataclasses import dataclass, replace

from experience.claims import Claim
from experience.episode import Episode
from experience.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A claimed file and what of it is still to be learned from.

    Attributes:
        claim: the claimed file.
        episodes: those not refused so far.
        problems: episodes of it that could not be read.
        claimed_at: UTC seconds of the claim; with ``seen_s`` it gives every episode's age.
        seen_s: ``Clock.aging`` when it was read; None when it was claimed by an earlier run of the daemon, or
            while the daemon was held back.
        mtime_s: UTC seconds of the file's last change: its end when the episode names none.
    """

    claim: Claim
    episodes: tuple[Episode, ...]
    problems: tuple[Problem, ...] = ()
    claimed_at: float
    seen_s: float | None
    mtime_s: float

    @property
    def n_steps(self) -> int:
        """Steps still to be learned from."""
        return sum(episode.n_steps for episode in self.episodes)

    @property
    def n_bytes(self) -> int:
        """Bytes of what may be large of them: observations and masks."""
        return sum([e.obs.nbytes + (0 if e.mask is None else e.mask.nbytes) for e in self.episodes])

    def keeping(self, episodes: tuple[Episode, ...]) -> "Arrival":
        """Return the same file with only ``episodes`` left."""
        return replace(self, episodes=episodes)

    def age_s(self, episode: Episode, *, now_s: float) -> float:
        """Age of ``episode``: by the wall clock up to the claim, by ``Clock.aging``, ``now_s``, since.

        A file claimed by an earlier run keeps the age that it had then: a restart repeats no verdict. So does
        one that was claimed while the daemon was held back.
        """
        ended_at = self.mtime_s if episode.ended_at is None else episode.ended_at
        since_s = 0.0 if self.seen_s is None else now_s - self.seen_s
        return self.claimed_at - ended_at + since_s
