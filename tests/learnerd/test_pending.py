import pytest

from experience.claims import Claim
from learnerd.arrival import Arrival
from learnerd.config_tables import Batch
from learnerd.pending import Pending

SIZES = Batch(min_episodes=4, max_wait_s=5.0, chunk_episodes=2, max_chunks=3, max_steps=1000)


@pytest.fixture
def arrival(make_episode, tmp_path):
    def build(name="a", *, episodes=1, steps=3):
        return Arrival(
            claim=Claim(id=name, attempt=1, name=name, location=str(tmp_path / name)),
            episodes=tuple(make_episode(f"{name}{i}", steps=steps) for i in range(episodes)),
            claimed_at=0.0,
            seen_s=0.0,
            mtime_s=0.0,
        )

    return build


def test_a_batch_is_due_when_it_is_full_or_has_waited(arrival):
    pending = Pending(SIZES)
    assert pending.wait_s(0.0) is None
    pending.add([arrival("a")], now_s=10.0)
    assert pending.wait_s(12.0) == pytest.approx(3.0)
    assert pending.wait_s(15.0) == 0.0
    pending.add([arrival("b", episodes=3)], now_s=12.0)
    assert pending.wait_s(12.0) == 0.0


def test_many_steps_close_a_batch_too(arrival):
    pending = Pending(SIZES)
    pending.add([arrival("a", steps=1000)], now_s=0.0)
    assert pending.wait_s(0.0) == 0.0


def test_one_cycle_takes_the_oldest_up_to_its_size(arrival):
    pending = Pending(SIZES)
    pending.add([arrival(str(i)) for i in range(9)], now_s=0.0)
    assert [one.claim.name for one in pending.take()] == ["0", "1", "2", "3", "4", "5"]
    assert (len(pending), pending.n_episodes, pending.n_steps) == (3, 3, 9)


def test_a_file_is_never_split(arrival):
    pending = Pending(SIZES)
    pending.add([arrival("a", episodes=5), arrival("b", episodes=5)], now_s=0.0)
    assert [one.claim.name for one in pending.take()] == ["a", "b"]


def test_there_is_room_for_two_cycles(arrival):
    pending = Pending(SIZES)
    pending.add([arrival(str(i)) for i in range(11)], now_s=0.0)
    assert pending.room(64) == 64
    pending.add([arrival("last")], now_s=0.0)
    assert pending.room(64) == 0
    pending.take()
    assert pending.room(64) == 64


def test_large_observations_close_a_batch_and_leave_less_room(arrival):
    one = arrival("a").n_bytes
    assert one == 4 * 4 * 4  # float32 [steps + 1, 4]
    pending = Pending(SIZES.model_copy(update={"max_bytes": 2 * one}))
    for i in range(8):
        pending.add([arrival(str(i))], now_s=0.0)
        assert (pending.wait_s(0.0) == 0.0) == (i > 0)
        assert (pending.room(64) > 0) == (i < 3)
        assert pending.overflows == (i >= 7)
    assert [one.claim.name for one in pending.take()] == ["0", "1"]
    while len(pending):
        pending.take()
    assert (pending.n_bytes, pending.room(64), pending.room(2)) == (0, 4, 2)
    pending.add([arrival("big", steps=8)], now_s=0.0)
    assert pending.room(64) == 1


def test_a_failed_batch_comes_back_first(arrival):
    pending = Pending(SIZES)
    pending.add([arrival(str(i)) for i in range(8)], now_s=0.0)
    failed = pending.take()
    pending.put_back(failed, now_s=1.0)
    assert pending.take() == failed


def test_a_backlog_is_learned_in_pieces_that_fit_into_memory(site, drop, monkeypatch):
    """Small files at first, so that many are read at a time; then some that are much larger."""
    site.configure("[batch]\nmax_bytes = 200\nmin_episodes = 64\nmax_chunks = 16\n")
    held = []
    count = Pending._count

    def counted(self, one, sign):
        count(self, one, sign)
        held.append((self.n_bytes, one.n_bytes))

    monkeypatch.setattr(Pending, "_count", counted)
    for i in range(72):
        drop(steps=5 if i < 64 else 100)
    assert site.run_here() == 0
    assert sorted(site.ledger_ids()) == sorted(f"episode-{i}" for i in range(1, 73))
    versions = [site.manifest(version) for version in range(1, site.current() + 1)]
    assert max(len(manifest["keys"]) for manifest in versions) == 3  # 72 bytes each
    assert max(n_bytes for n_bytes, _ in held) <= 4 * 200 + max(file_bytes for _, file_bytes in held)
