"""Intake: claim → decode → sort, so that admitted episodes wait in memory, few at a time."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import structlog

from experience.claims import Claim
from experience.decoder import DecodeJob, Decoder, DecodeResult
from experience.errors import Problem, reject
from experience.ids import uuid7_alike, uuid7_time_s
from experience.spool import Spool
from experience.work_file import SLOTS
from learnerd.admission import Admission
from learnerd.arrival import Arrival
from learnerd.clock import Clock
from learnerd.settle import Settling

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 3
"""A file that kills its decoder, is still cut short or cannot be opened this often is quarantined."""

_READ_AGAIN = frozenset({"truncated", "unreadable"})
"""Reasons that may be gone a little later: a client still writes; too many files are open, a disk hiccups."""

Meanwhile = Callable[[], Iterable[Claim]]
"""Done while the decoder works; returns what else it is to work on."""

SLICE_FILES = 256
"""Files claimed and decoded between two looks at signals and the clock: 50 ms of small ones."""

SLICE_BYTES = 2**25
"""No further file is claimed for a slice that holds so many; the slowest take some seconds for them."""

SLICE_CLAIMS = 1024
"""Files claimed between two looks while nothing is decoded."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A claimed file that is to be read again later."""

    claim: Claim
    due_s: float
    resumed: bool


@dataclass(kw_only=True)
class Backlog:
    """Files known but not claimed yet: finished names in order of arrival, without repeats."""

    names: dict[str, None] = field(default_factory=dict)

    def add(self, names: Sequence[str]) -> None:
        """Put ``names`` at the end; those already there keep their place."""
        for name in names:
            self.names.setdefault(name)

    def take(self, count: int) -> list[str]:
        """Remove and return the first ``count``."""
        taken = list(self.names)[:count]
        for name in taken:
            del self.names[name]
        return taken

    def put_back(self, names: Iterable[str]) -> None:
        """Put ``names`` at the front again."""
        if first := dict.fromkeys(names):
            self.names = first | self.names


class Intake:
    """Turns finished files in the inbox into arrivals.

    Args:
        spool, decoder, admission: the stages.
        settle_s: seconds after which an unchanged file counts as finished; retries wait for 2 and 4 of it.
        clock: ages, settling and retries.
    """

    def __init__(
        self, *, spool: Spool, decoder: Decoder, admission: Admission, settle_s: float, clock: Clock
    ) -> None:
        self._spool = spool
        self._decoder = decoder
        self._admission = admission
        self._settle_s = settle_s
        self._clock = clock
        self._settling = Settling(settle_s)
        self._backlog = Backlog()
        self._unread = Backlog()
        self._retries: list[Retry] = []
        self._known: set[str] = set()
        self._stuck: set[str] = set()
        self._robbed = False
        self._settled_at_s = 0.0

    @property
    def idle(self) -> bool:
        """Nothing known is left to claim, to settle or to retry."""
        waiting = self._backlog.names or self._unread.names or self._retries or self._settling.unsettled
        return not waiting

    @property
    def has_work(self) -> bool:
        """A call of ``take`` would find a file now."""
        now = self._clock.monotonic()
        known = self._backlog.names or self._unread.names
        return bool(known) or any(retry.due_s <= now for retry in self._retries)

    @property
    def unclaimed(self) -> bool:
        """A call of ``claim`` would find a file now."""
        return bool(self._backlog.names)

    def next_due_s(self) -> float | None:
        """Seconds until a retry, or a file that is still settling, needs a look; None when none does."""
        times = [retry.due_s for retry in self._retries]
        if self._settling.unsettled:
            times.append(self._settled_at_s)
        return max(0.0, min(times) - self._clock.monotonic()) if times else None

    @property
    def settled(self) -> bool:
        """Files that were still changing at the last scan may be finished by now."""
        return bool(self._settling.unsettled) and self._clock.monotonic() >= self._settled_at_s

    def note(self, complete: Sequence[str]) -> None:
        """Take hints: names that were closed, or renamed into place."""
        self._backlog.add(complete)

    def scan(self, *, only_known: bool = False, adopt: bool = True) -> None:
        """Look at the whole inbox: every finished file joins the backlog, oldest first.

        Args:
            only_known: leave out files that an earlier scan did not see.
            adopt: take up claims that nobody has read yet, too; False while nothing is to be read.
        """
        waiting = [file for file in self._spool.waiting() if not only_known or file.name in self._known]
        self._known = {file.name for file in waiting}
        self._stuck &= self._known
        self._robbed = False
        ready = self._settling.ready(
            waiting,
            complete=self._backlog.names,
            wall_s=self._clock.wall() - self._clock.allowance_s,  # else a step forward would settle all
            monotonic_s=self._clock.monotonic(),
        )
        self._backlog = Backlog(names=dict.fromkeys(file.name for file in ready))
        if adopt:
            self._adopt_orphans()
        self._settled_at_s = self._clock.monotonic() + self._settle_s

    def _adopt_orphans(self) -> None:
        """Take up claims of ours that nobody holds: not read yet, or something failed before the verdict.

        A file that kills its decoder is retried, never orphaned: these files' attempts were not their fault.
        """
        known = {retry.claim.id for retry in self._retries} | self._admission.held()
        orphans = [claim for claim in self._spool.resume() if claim.id not in known]
        self._unread = Backlog()
        self._unread.add([claim.path.name for claim in orphans if claim.attempt == 0])
        for claim in orphans:
            if claim.attempt:
                self._retry(self._spool.clear_attempts(claim), delay_s=0.0, resumed=True)

    def claim(self) -> None:
        """Take files out of the inbox without reading them, so that their age stands still."""
        names = self._backlog.take(SLICE_CLAIMS)
        claims = [claim for claim in (self._claim(name, attempt=0) for name in names) if claim]
        if claims:
            self._spool.sync_claims()

    def resume(self) -> list[Arrival]:
        """Decode every claim that an earlier run began to read, unsorted: some may have been published.

        One at a time: when this process ends on one of them, only that one's attempts have been raised. The
        others, of which there may be many, are found by ``scan``.
        """
        claims = [claim for claim in self._spool.resume() if claim.attempt]
        arrivals = [arrival for claim in claims for arrival in self._decode_again([claim], resumed=True)]
        # What died is read again before anything counts as a duplicate: it may have been published.
        while died := [retry for retry in self._retries if retry.due_s <= self._clock.monotonic()]:
            self._retries = [retry for retry in self._retries if retry not in died]
            for retry in died:
                arrivals += self._decode_again([retry.claim], resumed=True)
        return arrivals

    def take(self, room: int) -> Iterator[Arrival]:
        """Claim, decode and sort up to ``room`` files, at most a slice; yield what is to be learned.

        Each is yielded as soon as it passed, so that an error in a later one does not lose it.
        """
        now = self._clock.monotonic()
        due = [retry for retry in self._retries if retry.due_s <= now][:room]
        self._retries = [retry for retry in self._retries if retry not in due]
        room = min(SLICE_FILES, room - len(due))
        unread = [claim for claim in map(self._spool.claimed, self._unread.take(room)) if claim]
        yield from self._admitted(self._decode_again(unread, resumed=True, meanwhile=self._synced))
        names = self._backlog.take(room - len(unread))
        if names:
            self._decoder.start()  # before attempts count: being killed meanwhile is no file's fault
        claims = self._claims(names)
        first = list(islice(claims, SLOTS))  # the others while the decoder works on these
        more = functools.partial(self._synced, claims)
        yield from self._admitted(self._decode(first, resumed=False, meanwhile=more))
        for resumed in (True, False):
            again = [retry.claim for retry in due if retry.resumed == resumed]
            yield from self._admitted(self._decode_again(again, resumed=resumed))

    def _synced(self, claims: Iterable[Claim] = ()) -> list[Claim]:
        """Make ``claims`` and those before durable: a power cut must not undo what has been published."""
        made = list(claims)
        self._spool.sync_claims()
        return made

    def _admitted(self, arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
        return (kept for kept in self._admission.sort_all(arrivals) if kept.episodes)

    def _decode_again(
        self, claims: Sequence[Claim], *, resumed: bool, meanwhile: Meanwhile = tuple
    ) -> Iterator[Arrival]:
        if claims:
            self._decoder.start()
        tried = [claim for claim in map(self._next_attempt, claims) if claim]
        return self._decode(tried, resumed=resumed, meanwhile=meanwhile)

    def _decode(
        self, claims: Sequence[Claim], *, resumed: bool, meanwhile: Meanwhile = tuple
    ) -> Iterator[Arrival]:
        """Decode claims whose names count this attempt already, and those that ``meanwhile`` returns."""
        by_path: dict[str, Claim] = {}

        def jobs(some: Iterable[Claim]) -> list[DecodeJob]:
            made = [(self._job(claim), claim) for claim in some]
            by_path.update({job.claim_path: claim for job, claim in made})
            return [job for job, _ in made]

        for results in self._decoder.decode_some(jobs(claims), meanwhile=lambda: jobs(meanwhile())):
            arrivals: list[Arrival] = []
            try:
                for result in results:
                    arrival = self._arrival(by_path[result.job.claim_path], result, resumed=resumed)
                    if arrival is not None:
                        arrivals.append(arrival)
            except OSError:
                yield from arrivals  # an error in a later one does not lose them
                raise
            if len(arrivals) > 1:
                self._admission.foresee(arrivals)
            yield from arrivals

    def _claims(self, names: Sequence[str]) -> Iterator[Claim]:
        """Claim files one after another; those that a slice has no room for go back to the backlog."""
        left = iter(names)
        n_bytes = 0
        for name, claim_id in zip(left, _ids(len(names)), strict=True):
            claim = self._claim(name, claim_id)
            if claim is not None:
                yield claim
                n_bytes += _size_bytes(claim)
            if n_bytes >= SLICE_BYTES:
                break
        self._backlog.put_back(left)

    def _claim(self, name: str, claim_id: str | None = None, *, attempt: int = 1) -> Claim | None:
        try:
            return self._spool.claim(name, attempt=attempt, claim_id=claim_id)
        except OSError as error:
            if not self._stuck:
                log.warning(
                    "files_not_claimed", error=error.strerror, remedy="let the daemon's user move them"
                )
            self._stuck.add(name)
            log.debug("file_not_claimed", file=name, error=error.strerror)
            return None

    def _next_attempt(self, claim: Claim) -> Claim | None:
        """Raise the attempt in the name before parsing; a file that ended its decoder too often ends here."""
        if claim.attempt < MAX_ATTEMPTS:
            return self._begin(claim)
        accepted = "a file that can be read within the decoder's limits of memory and time"
        problem = reject("decoder_died", "file", f"{claim.attempt} attempts, none finished", accepted).problem
        self._admission.quarantine(claim, problem)
        return None

    def _begin(self, claim: Claim) -> Claim | None:
        try:
            return self._spool.attempt(claim)
        except FileNotFoundError:
            if not claim.path.parent.is_dir():
                raise
            if not self._robbed:
                log.warning(
                    "claims_removed", remedy="somebody took files back that were claimed; none is learned"
                )
            self._robbed = True  # until the next scan
            log.debug("claim_removed", file=claim.name)
            return None

    def _job(self, claim: Claim) -> DecodeJob:
        return DecodeJob(
            claim_path=claim.location,
            work_path=self._spool.work_location(claim),
            name=claim.name,
            ingested_at=uuid7_time_s(claim.id),
            slot=self._spool.work_slot(claim),
        )

    def _arrival(self, claim: Claim, result: DecodeResult, *, resumed: bool) -> Arrival | None:
        if result.died:
            self._retry(claim, delay_s=0.0, resumed=resumed)
            return None
        if result.problem is not None:
            self._unreadable(claim, result.problem, resumed=resumed)
            return None
        assert result.decoded is not None
        if resumed:
            claim = self._spool.clear_attempts(claim)
        arrival = Arrival(
            claim=claim,
            episodes=result.decoded.episodes,
            problems=result.decoded.problems,
            claimed_at=result.job.ingested_at,
            seen_s=None if resumed else self._clock.aging(),
            mtime_s=result.mtime,
        )
        if not arrival.episodes:
            self._admission.finish(arrival)
            return None
        return arrival

    def _unreadable(self, claim: Claim, problem: Problem, *, resumed: bool) -> None:
        if problem.reason in _READ_AGAIN and claim.attempt < MAX_ATTEMPTS:
            self._retry(claim, delay_s=self._settle_s * 2**claim.attempt, resumed=resumed)
        else:
            self._admission.quarantine(claim, problem)

    def _retry(self, claim: Claim, *, delay_s: float, resumed: bool) -> None:
        self._retries.append(Retry(claim=claim, due_s=self._clock.monotonic() + delay_s, resumed=resumed))


def _size_bytes(claim: Claim) -> int:
    try:
        return os.lstat(claim.location).st_size
    except OSError:
        return 0  # taken back meanwhile: the decoder says so


def _ids(count: int) -> list[str]:
    """New ids for claims that are read at once: as many as are decoded together share a work file."""
    return [one for at in range(0, count, SLOTS) for one in uuid7_alike(min(SLOTS, count - at))]
