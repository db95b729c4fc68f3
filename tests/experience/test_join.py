import json
import re
import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import experience.join as join_module
from experience import RewardJoin
from experience.codec import decode
from experience.errors import NotYetClosed
from experience.journal import Journal, from_plain, to_plain


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def build(**fields):
        return RewardJoin(
            tmp_path / "spool", **{"client_id": "bot", "window_s": 60.0, "clock": clock, **fields}
        )

    return build


def decide(join, name, value=0.0, **fields):
    join.decide(name, np.full(3, value, np.float32), 1, logp=-0.5, policy_version=4, **fields)


def deposited(tmp_path):
    """Every file, as the daemon reads it, by the time of its end."""
    files = sorted((tmp_path / "spool/in").glob("[!.]*.npz"))
    read = [
        decode(file.read_bytes(), name=file.name, source_sha256="0" * 64, ingested_at=2e6) for file in files
    ]
    return sorted((one.episodes[0] for one in read), key=lambda episode: episode.ended_at)


def test_rewards_find_their_steps_in_any_order(make, tmp_path, clock):
    join = make()
    for number in range(3):
        decide(join, f"order-{number}", number)
    join.end(np.ones(3, np.float32), terminated=False, truncated=True)
    clock.now += 5.0
    assert join.reward("order-2", 1.5)
    assert join.reward("order-0", 0.25, final=False)
    assert join.reward("order-0", 0.5)
    assert deposited(tmp_path) == []
    assert join.waiting == 1
    clock.now += 5.0
    assert join.reward("order-1", -2.0)
    (episode,) = deposited(tmp_path)
    assert episode.reward.tolist() == [0.75, -2.0, 1.5]
    assert episode.obs[:, 0].tolist() == [0.0, 1.0, 2.0, 1.0]
    assert episode.ended_at == clock.now
    assert episode.started_at == clock.now - 10.0
    assert "rewards_missing" not in str(episode.extensions)
    assert not join.reward("order-1", 9.0)
    assert join.counts == {"decisions": 3, "joined": 4, "unmatched": 1, "episodes": 1}


def test_what_never_arrives_is_counted_in_the_file_too(make, tmp_path, clock):
    join = make(missing=-1.0)
    decide(join, "a", reward=0.5)
    decide(join, "b")
    decide(join, "c")
    join.end(None, terminated=True)
    join.reward("b", 3.0, final=False)
    clock.now += 60.0
    assert join.poll() == []
    clock.now += 0.1
    (path,) = join.poll()
    assert not join.reward("a", 7.0)
    (episode,) = deposited(tmp_path)
    assert path.exists()
    assert episode.reward.tolist() == [-0.5, 3.0, -1.0]
    assert episode.extensions["rewards_missing"] == 2
    assert join.counts == {"decisions": 3, "joined": 1, "missing": 2, "unmatched": 1, "episodes": 1}


def test_an_episode_that_waits_for_nothing_is_deposited_at_its_end(make, tmp_path):
    join = make()
    decide(join, "a")
    join.reward("a", 1.0)
    join.end(None, terminated=True)
    assert [episode.reward.tolist() for episode in deposited(tmp_path)] == [[1.0]]


def test_the_id_of_an_overdue_decision_may_be_used_again(make, tmp_path, clock):
    join = make()
    decide(join, "order-1")
    clock.now += 61.0
    decide(join, "order-1")
    join.end(None, terminated=True)
    join.reward("order-1", 2.0)
    assert [episode.reward.tolist() for episode in deposited(tmp_path)] == [[0.0, 2.0]]
    assert join.counts["missing"] == 1


def test_wrong_options_are_told_before_the_first_decision(make):
    with pytest.raises(ValueError, match="client_id"):
        make(client_id="b" * 1000)


def test_an_episode_can_be_dropped_for_a_missing_reward(make, tmp_path, clock):
    join = make(missing=None)
    for name in ("kept", "dropped"):
        decide(join, name)
        join.end(None, terminated=True)
    join.reward("kept", 1.0)
    clock.now += 61.0
    join.poll()
    assert [episode.reward.tolist() for episode in deposited(tmp_path)] == [[1.0]]
    assert join.counts["dropped"] == join.counts["episodes"] == 1


def test_pieces_of_a_session_keep_their_id(make, tmp_path, clock):
    join = make()
    for name in ("a", "b"):
        decide(join, name)
        join.end(np.zeros(3, np.float32), terminated=False, truncated=True, continues=True)
    decide(join, "c")
    join.end(None, terminated=True)
    decide(join, "d")
    join.end(None, terminated=True)
    for name in "dbca":
        clock.now += 1.0
        join.reward(name, 1.0)
    found = [(episode.episode_id, episode.segment) for episode in deposited(tmp_path)]
    session = found[1][0]
    assert found[1:] == [(session, 1), (session, 2), (session, 0)]
    assert found[0][1] == 0
    assert found[0][0] != session


def test_bad_calls_change_nothing(make, tmp_path):
    join = make()
    decide(join, "a")
    with pytest.raises(ValueError, match="'a', which waits"):
        decide(join, "a")
    with pytest.raises(ValueError, match="shape"):
        join.decide("b", np.zeros(5), 1, logp=-0.5)
    with pytest.raises(ValueError, match="final_obs is None"):
        join.end(None, terminated=False, truncated=True)
    with pytest.raises(ValueError, match="shape"):
        join.end(np.zeros(7), terminated=False, truncated=True)
    join.end(None, terminated=True)
    join.reward("a", 1.0)
    assert [len(episode.reward) for episode in deposited(tmp_path)] == [1]
    with pytest.raises(NotYetClosed, match="call step first"):
        join.end(None, terminated=True)
    with pytest.raises(ValueError, match="window_s is 0"):
        make(window_s=0.0)


class Killed(BaseException):
    pass


class Killer:
    """Ends the client before or after its n-th change of a file."""

    def __init__(self, monkeypatch, at):
        self.left = at
        for owner, name in ((Journal, "append"), (Path, "rename"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self.dying(getattr(owner, name)))

    def dying(self, real):
        def act(*args):
            self.count()
            done = real(*args)
            self.count()
            return done

        return act

    def count(self):
        self.left -= 1
        if self.left == 0:
            raise Killed


def play(join, clock, told):
    """Two decisions an episode, one in three of them without a reward; what was told is not told again."""
    acts = {
        "decide": lambda n: decide(join(), f"d{n}", n),
        "end": lambda n: join().end(None, terminated=True) if n % 2 else None,
        "reward": lambda n: join().reward(f"d{n}", float(n)) if n % 3 else None,
    }
    for number in range(8):
        for name, act in acts.items():
            if (name, number) in told:
                continue
            clock.now += 0.1
            try:
                act(number)
            except (ValueError, NotYetClosed) as error:
                if not re.search("waits for its reward already|call step first", str(error)):
                    raise  # otherwise the one before had recorded it when it was killed
            told.append((name, number))
    clock.now += 100.0
    join().poll()


@pytest.mark.parametrize("compact_bytes", [join_module.COMPACT_BYTES, 1])
def test_a_client_that_dies_anywhere_loses_nothing_and_doubles_nothing(
    tmp_path, make, clock, monkeypatch, compact_bytes
):
    monkeypatch.setattr(join_module, "COMPACT_BYTES", compact_bytes)
    killed_at, finished = 0, False
    while not finished:
        killed_at += 1
        here, told, lives = tmp_path / str(killed_at), [], []
        here.mkdir()

        def join(here=here, lives=lives):
            return lives[-1] if lives else begin(here, lives)

        def begin(here, lives):
            made = RewardJoin(
                here / "spool", client_id="bot", window_s=50.0, journal=here / "journal.jsonl", clock=clock
            )
            lives.append(made)
            return made

        with monkeypatch.context() as patch:
            Killer(patch, killed_at)
            try:
                play(join, clock, told)
                finished = True
            except Killed:
                pass
        lives.clear()
        play(join, clock, told)
        rewards = sorted(episode.reward.tolist() for episode in deposited(here))
        assert rewards == [[0.0, 1.0], [0.0, 7.0], [2.0, 0.0], [4.0, 5.0]], killed_at
        assert lives[0].counts["missing"] == 3
        assert lives[0].counts["episodes"] == 4
    assert killed_at > 60


def test_a_deposit_repeated_after_a_crash_is_the_same_episode(tmp_path, make, clock, monkeypatch):
    join = make(journal=tmp_path / "j")
    decide(join, "a")
    join.end(None, terminated=True)

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RewardJoin, "_on_gone", die)
        with pytest.raises(Killed):
            join.reward("a", 1.0)
    (first,) = deposited(tmp_path)
    clock.now += 30.0
    assert make(journal=tmp_path / "j").waiting == 0
    (second,) = deposited(tmp_path)
    assert second.row_sha256 == first.row_sha256


def test_a_failed_deposit_is_kept_and_tried_again(make, tmp_path, monkeypatch):
    join = make(journal=tmp_path / "j")
    decide(join, "a")
    join.end(None, terminated=True)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space"):
            join.reward("a", 2.0)
    assert deposited(tmp_path) == []
    assert len(join.poll()) == 1
    assert deposited(tmp_path)[0].reward.tolist() == [2.0]


def test_a_damaged_journal_is_named_with_its_line_and_a_cut_end_is_dropped(make, tmp_path):
    path = tmp_path / "j"
    join = make(journal=path)
    decide(join, "a")
    decide(join, "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert make(journal=path).waiting == 1
    path.write_bytes(b"{}\nnonsense\n" + whole)
    with pytest.raises(ValueError, match=r"j, line 2: b'nonsense' is no JSON object; move"):
        make(journal=path)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.float32(0.1),
        {"a": np.ones(2), "b": (1, 0.5, np.zeros(1, bool))},
        [1.0, 2.0],
        None,
        3,
    ],
)
def test_values_come_back_from_json_as_they_were(value):
    back = from_plain(json.loads(json.dumps(to_plain(value))))
    flat = lambda each: [np.asarray(leaf) for leaf in each] if isinstance(each, tuple) else np.asarray(each)  # noqa: E731
    if isinstance(value, dict):
        assert back.keys() == value.keys()
        pairs = [(flat(back[key]), flat(value[key])) for key in value]
    else:
        pairs = [(flat(back), flat(value))]
    for found, expected in pairs:
        np.testing.assert_equal(found, expected)
        if not isinstance(expected, list):
            assert found.dtype == expected.dtype


def test_several_threads_may_reward(make):
    join = make()
    for number in range(200):
        decide(join, str(number))
    threads = [
        threading.Thread(target=lambda part=part: [join.reward(str(n), 1.0) for n in range(part, 200, 4)])
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert join.waiting == 0
    assert join.counts["joined"] == 200


def test_a_journal_forgets_what_was_deposited(make, tmp_path, monkeypatch):
    monkeypatch.setattr(join_module, "COMPACT_BYTES", 5_000)
    join = make(journal=tmp_path / "j")
    for _ in range(100):
        decide(join, "a")
        join.end(None, terminated=True)
        join.reward("a", 1.0)
    assert join.counts["episodes"] == 100
    assert (tmp_path / "j").stat().st_size < 10_000


@pytest.mark.parametrize("half", [True, False])
def test_a_journal_on_a_full_disk_is_whole_and_forgets_nothing(make, tmp_path, clock, half):
    path = tmp_path / "j"
    join = make(journal=path)
    decide(join, "a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + (50 if half else 0), before[1]))
    try:
        with pytest.raises(OSError, match=r"too large|No space"):
            decide(join, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(ValueError, match="'b', which waits"):
        decide(join, "b")
    join.end(None, terminated=True)
    join.reward("a", 1.0)
    clock.now += 100.0
    after = make(journal=path)
    (episode,) = deposited(tmp_path)
    assert episode.reward.tolist() == [1.0, 0.0]
    assert after.counts["missing"] == 1
