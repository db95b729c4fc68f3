"""Pending: admitted arrivals that wait in memory for the next cycle."""

from collections import deque
from collections.abc import Iterable

from learnerd.arrival import Arrival
from learnerd.config_tables import Batch


class Pending:
    """A queue of arrivals that knows when a batch is due, and how much more it may hold.

    Args:
        batch: the sizes.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._queue: deque[tuple[float, Arrival]] = deque()
        self.n_episodes = 0
        self.n_steps = 0

    def add(self, arrivals: Iterable[Arrival], *, now_s: float) -> None:
        """Put ``arrivals`` at the end."""
        for arrival in arrivals:
            self._queue.append((now_s, arrival))
            self._count(arrival, +1)

    def put_back(self, arrivals: Iterable[Arrival], *, now_s: float) -> None:
        """Put arrivals whose cycle failed at the front again, in their order."""
        for arrival in reversed(list(arrivals)):
            self._queue.appendleft((now_s, arrival))
            self._count(arrival, +1)

    def room(self, most: int) -> int:
        """How many more files to read now: none while two cycles' worth is waiting."""
        full = (
            self.n_episodes >= 2 * self._batch.chunk_episodes * self._batch.max_chunks
            or self.n_steps >= 2 * self._batch.max_steps
        )
        return 0 if full else most

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a batch is due: 0.0 when it is, None when nothing is waiting."""
        if not self._queue:
            return None
        if self.n_episodes >= self._batch.min_episodes or self.n_steps >= self._batch.max_steps:
            return 0.0
        return max(0.0, self._queue[0][0] + self._batch.max_wait_s - now_s)

    def take(self) -> list[Arrival]:
        """Remove and return the oldest, up to one cycle's worth; at least one."""
        taken: list[Arrival] = []
        episodes = steps = 0
        most_episodes = self._batch.chunk_episodes * self._batch.max_chunks
        while self._queue and (not taken or (episodes < most_episodes and steps < self._batch.max_steps)):
            _, arrival = self._queue.popleft()
            self._count(arrival, -1)
            episodes += len(arrival.episodes)
            steps += arrival.n_steps
            taken.append(arrival)
        return taken

    def __len__(self) -> int:
        return len(self._queue)

    def _count(self, arrival: Arrival, sign: int) -> None:
        self.n_episodes += sign * len(arrival.episodes)
        self.n_steps += sign * arrival.n_steps
