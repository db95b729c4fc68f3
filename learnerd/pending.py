"""Pending: admitted arrivals that wait in memory for the next cycle."""

from collections import deque
from collections.abc import Iterable

from learnerd.arrival import Arrival
from learnerd.config_tables import Batch

_FADING = 0.75
"""A file may hold as much as this share of what the largest before it held, and so on."""


class Pending:
    """A queue of arrivals that knows when a batch is due, and how much more it may hold.

    Args:
        batch: the sizes.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._queue: deque[tuple[float, Arrival]] = deque()
        self._file_bytes = 1.0
        self.n_episodes = 0
        self.n_steps = 0
        self.n_bytes = 0

    def add(self, arrivals: Iterable[Arrival], *, now_s: float) -> None:
        """Put ``arrivals`` at the end."""
        for arrival in arrivals:
            self._queue.append((now_s, arrival))
            self._file_bytes = max(arrival.n_bytes, _FADING * self._file_bytes, 1.0)
            self._count(arrival, +1)

    def put_back(self, arrivals: Iterable[Arrival], *, now_s: float) -> None:
        """Put arrivals whose cycle failed at the front again, in their order."""
        for arrival in reversed(list(arrivals)):
            self._queue.appendleft((now_s, arrival))
            self._count(arrival, +1)

    def room(self, most: int) -> int:
        """How many more files to read now: none while two cycles' worth is waiting."""
        if any(held >= 2 * cycle for held, cycle in zip(self._held, self._cycle, strict=True)):
            return 0
        left_bytes = 2 * self._batch.max_bytes - self.n_bytes
        return max(1, min(most, int(left_bytes / self._file_bytes)))

    @property
    def overflows(self) -> bool:
        """Files have turned out so much larger than expected that no more of them may be read now."""
        return self.n_bytes >= 4 * self._batch.max_bytes

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a batch is due: 0.0 when it is, None when nothing is waiting."""
        if not self._queue:
            return None
        due = self._batch.min_episodes, self._batch.max_steps, self._batch.max_bytes
        if any(held >= enough for held, enough in zip(self._held, due, strict=True)):
            return 0.0
        return max(0.0, self._queue[0][0] + self._batch.max_wait_s - now_s)

    def take(self) -> list[Arrival]:
        """Remove and return the oldest, up to one cycle's worth; at least one."""
        taken: list[Arrival] = []
        before = self._held
        while self._queue:
            counts = zip(before, self._held, self._cycle, strict=True)
            if taken and any(was - left >= most for was, left, most in counts):
                break
            _, arrival = self._queue.popleft()
            self._count(arrival, -1)
            taken.append(arrival)
        return taken

    @property
    def _held(self) -> tuple[int, int, int]:
        """Episodes, steps and bytes that wait."""
        return self.n_episodes, self.n_steps, self.n_bytes

    @property
    def _cycle(self) -> tuple[int, int, int]:
        """The same of one cycle, at most; what comes last may go beyond."""
        batch = self._batch
        return batch.chunk_episodes * batch.max_chunks, batch.max_steps, batch.max_bytes

    def __len__(self) -> int:
        return len(self._queue)

    def _count(self, arrival: Arrival, sign: int) -> None:
        self.n_episodes += sign * len(arrival.episodes)
        self.n_steps += sign * arrival.n_steps
        self.n_bytes += sign * arrival.n_bytes
