import json

import numpy as np
import pytest

from experience import wire
from experience.codec import Decoded
from experience.errors import BadFrame, Problem
from experience.wire import Message


@pytest.fixture
def message(make_episode):
    full = make_episode(
        "e2",
        obs=np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3),
        action=np.ones((3, 2), np.float32),
        logp=None,
        mask=np.array([[True, False]] * 3),
        policy_version_step=np.array([1, 2, 3]),
        tags=("a",),
        observation_shape=(2, 3),
        action_space={"kind": "continuous", "shape": [2]},
        source_name="x\udcff\n.npz",
        info_json='{"a":1}',
        extensions={"ext.x": [1, None]},
    )
    problem = Problem(reason="bad_shape", field="obs", value="é", accepted="rows", index=1)
    return Message(job=7, mtime_s=12.5, decoded=Decoded(episodes=(make_episode(), full), problems=(problem,)))


def frame(message):
    prefix, *rest = wire.encode([message])
    return prefix, b"".join(rest)


def test_round_trip(message):
    prefix, rest = frame(message)
    assert wire.frame_bytes(prefix) == len(rest)
    (result,) = wire.decode(prefix, rest)
    assert (result.job, result.mtime_s, result.problem) == (7, 12.5, None)
    assert result.decoded.problems == message.decoded.problems
    for read, written in zip(result.decoded.episodes, message.decoded.episodes, strict=True):
        assert read.row_sha256 == written.row_sha256
        for name in ("obs", "action", "reward", "logp", "mask", "policy_version_step"):
            array = getattr(read, name)
            assert (array is None) == (getattr(written, name) is None)
            assert array is None or (array.flags.aligned and not array.flags.writeable)
        for name in (*wire._PLAIN, *wire._NESTED):
            assert getattr(read, name) == getattr(written, name), name


@pytest.fixture
def alike(make_episode):
    """Episodes with the same fields; what they say of themselves differs, or is equal in Python alone."""
    own = [
        {"extensions": {"a": 1}, "tags": ("x",), "policy_digest": "d"},
        {"extensions": {"a": True}, "tags": (), "ended_at": 2.5},
        {"terminated": False, "truncated": True, "policy_version": None},
    ]
    return [make_episode(f"e{i}", env_id="same", **each) for i, each in enumerate(own)]


def frame_of(episodes):
    return frame(Message(job=1, mtime_s=0.0, decoded=Decoded(episodes=tuple(episodes))))


@pytest.mark.parametrize("others", [(), ({"logp": None},), ({"obs": np.zeros((4, 7), np.float32)},)])
def test_what_comes_back_is_what_went(alike, make_episode, others):
    """Read together where all are alike, else one by one."""
    written = [*alike, *(make_episode("other", **other) for other in others)]
    (result,) = wire.decode(*frame_of(written))
    for read, one in zip(result.decoded.episodes, written, strict=True):
        assert read.row_sha256 == one.row_sha256
        assert not read.obs.flags.writeable
        for name in (*wire._PLAIN, *wire._NESTED):
            assert repr(getattr(read, name)) == repr(getattr(one, name)), name


def changed_frame(episodes, change):
    """The frame of ``episodes`` with one value of its header replaced: a path, and what goes there."""
    prefix, rest = frame_of(episodes)
    _, n_header, n_body = wire.PREFIX.unpack(prefix)
    header = json.loads(rest[:n_header])
    *path, last, value = change
    place = header
    for name in path:
        place = place[name]
    place[last] = value
    text = json.dumps(header).encode()
    return wire.PREFIX.pack(prefix[:4], len(text), n_body), text + rest[n_header:]


REWARD = 2
"""Position of its block: obs, action, reward, logp."""


@pytest.mark.parametrize(
    "change",
    [
        ("common", "unknown", 1),
        ("common", "obs", [1.0]),
        ("common", "logp", [1.0]),
        ("common", "episode_id", "e"),
        ("common", "client_id", "\n"),
        ("common", "client_id", 3),
        ("common", []),
        ("varying", {"episode_id": ["a", "b", "c"]}),
        ("varying", "unknown", [1, 1, 1]),
        ("varying", "logp", [[1.0]] * 3),
        ("varying", "env_id", ["same"] * 3),
        ("varying", "episode_id", ["a", "", "c"]),
        ("varying", "episode_id", ["a", 3, "c"]),
        ("varying", "episode_id", "abc"),
        ("varying", "episode_id", ["a", "b"]),
        ("varying", "policy_version", [1, -1, 1]),
        ("varying", "policy_version", [1, 1.5, 1]),
        ("varying", "terminated", [True, "yes", True]),
        ("varying", "ended_at", [1.0, 2.0]),
        ("varying", "ended_at", [1.0, 2.0, 3.0, 4.0]),
        ("varying", "ended_at", [1.0, "x", 2.0]),
        ("varying", "ended_at", 1.0),
        ("varying", "tags", [[], 3, []]),
        ("varying", []),
        ("varying", {}),
        ("common", "segment", True),
        ("common", "env_id", []),
        ("common", "extensions", []),
        ("blocks", []),
        ("blocks", REWARD, 0, "env_id"),
        ("blocks", REWARD, 0, "logp"),
        ("blocks", REWARD, 1, "|O"),
        ("blocks", REWARD, 1, "<i8"),
        ("blocks", REWARD + 1, 2, [1]),
        ("blocks", REWARD, 2, [1]),
        ("blocks", REWARD, 3, [0, 1]),
        ("blocks", REWARD, 4, [3, 3, 10**9]),
        ("blocks", REWARD, 4, [3, 3, 2]),
        ("blocks", REWARD, 4, [3, 6, 0]),
        ("blocks", REWARD, 4, [12, 0, -3]),
        ("blocks", REWARD, 4, [3, 6]),
        ("blocks", REWARD, 4, [9]),
        ("blocks", REWARD, 4, []),
        ("blocks", REWARD, 4, ["3", "3", "3"]),
        ("blocks", 0, 4, [4, 4, 3]),
        ("blocks", 0, 4, [4, 4]),
        ("blocks", 0, 4, [3, 5, 4]),
        ("blocks", 1, 4, [4, 2, 3]),
        ("blocks", REWARD + 1, 4, [3, 4, 2]),
    ],
)
def test_episodes_together_that_make_no_sense(alike, change):
    assert wire.decode(*changed_frame(alike, ("blocks", REWARD, 2, [])))
    with pytest.raises(BadFrame):
        wire.decode(*changed_frame(alike, change))


def test_numbers_are_looked_at_where_episodes_come_together(alike):
    prefix, rest = frame_of(alike)
    for name, number in (("reward", np.nan), ("logp", 1.0), ("obs", np.inf), ("action", -1)):
        array = np.concatenate([getattr(episode, name).reshape(-1) for episode in alike])
        changed = array.copy()
        changed[4] = number
        assert rest.count(array.tobytes()) == 1
        with pytest.raises(BadFrame):
            wire.decode(prefix, rest.replace(array.tobytes(), changed.tobytes()))


def test_every_flipped_bit_in_a_header_of_several(alike):
    prefix, rest = frame_of(alike)
    _, n_header, _ = wire.PREFIX.unpack(prefix)
    bad = 0
    for bit in range(n_header * 8):
        flipped = bytearray(rest)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            wire.decode(prefix, bytes(flipped))
        except BadFrame:
            bad += 1
    assert bad > n_header * 3


def test_a_problem_of_the_whole_file():
    problem = Problem(reason="truncated", field="file", value="0 bytes", accepted="more")
    (result,) = wire.decode(*frame(Message(job=1, mtime_s=0.0, problem=problem)))
    assert (result.problem, result.decoded) == (problem, None)


def test_every_truncation_is_a_bad_frame(message):
    prefix, rest = frame(message)
    for size in range(len(prefix)):
        with pytest.raises(BadFrame):
            wire.frame_bytes(prefix[:size])
    for size in range(len(rest)):
        with pytest.raises(BadFrame):
            wire.decode(prefix, rest[:size])


def test_every_flipped_bit_is_a_message_or_a_bad_frame(message):
    prefix, rest = frame(message)
    whole = prefix + rest
    bad = 0
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            wire.decode(bytes(flipped[: len(prefix)]), bytes(flipped[len(prefix) :]))
        except BadFrame:
            bad += 1
    assert bad > len(prefix) * 8


def refused(message, change):
    """Assert that the frame is none whose header ``change`` has been at."""
    prefix, rest = frame(message)
    _, n_header, n_body = wire.PREFIX.unpack(prefix)
    header = json.loads(rest[:n_header])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 16)
    with pytest.raises(BadFrame):
        wire.decode(wire.PREFIX.pack(prefix[:4], len(text), n_body), text + rest[n_header:])


def test_an_array_does_not_take_what_is_behind_it(make_episode):
    """-1 of something is as much as there is, padding among it."""
    episode = make_episode(
        obs=np.zeros((2, 7), np.float32),
        action=np.array([1]),
        reward=np.array([0.0]),
        logp=None,
        mask=np.array([[True, True]]),
    )

    def change(header):
        assert header["blocks"][-1] == ["mask", "|b1", [2], [0], [1]]
        header["blocks"][-1][2] = [-1]

    refused(Message(job=1, mtime_s=0.0, decoded=Decoded(episodes=(episode,))), change)


@pytest.mark.parametrize(
    "block",
    [
        ["reward", "|O", [], [0], [1]],
        ["reward", "<f8", [], [0], [-1]],
        ["reward", "<f8", [-1], [0], [1]],
        ["reward", "<f8", [-1], [0], [-1]],
        ["reward", "<f8", [], [0], [2**60]],
        ["reward", "<f8", [2**40], [0], [2**40]],
        ["reward", "<f8", [], [2], [3]],
        ["reward", "<f8", [], [0, 1], [3]],
        ["reward", "<f8", [], [0], 3],
        ["reward", "<f8", 3, [0], [3]],
        ["seed", "<f8", [], [0], [3]],
        ["reward", "<f8", [], [0]],
        None,
    ],
)
def test_arrays_that_are_not_there(message, block):
    def change(header):
        place = next(i for i, each in enumerate(header["blocks"]) if each[0] == "reward")
        header["blocks"][place] = block

    refused(message, change)


@pytest.mark.parametrize(
    "job",
    [
        [7, 0.0, None, 1, [], []],
        [7, 0.0, None, 3, [], []],
        [7, 0.0, None, -1, [], []],
        [7, 0.0, None, None, [], []],
        [7, 0.0, None, "2", [], []],
        [7, 0.0, {"reason": "x"}, 2, [], []],
        [7, 0.0, {"reason": "../x", "field": "a", "value": "b", "accepted": "c"}, 2, [], []],
        [7, 0.0, {"reason": "x", "field": 1, "value": "b", "accepted": "c"}, 2, [], []],
        [7, 0.0, {"reason": "x", "field": "a", "value": "b", "accepted": "c", "index": "1"}, 2, [], []],
        [7, float("nan"), None, 2, [], []],
        [7, 0.0, None, 2, [1], []],
        [7, 0.0, None, 2, []],
        [7, 0.0, None, 2, [], None],
        [7, 0.0, None, 2, [], [None]],
        [7, 0.0, None, 2, [], [None, 1]],
        [None, 0.0, None, 2, [], []],
        7,
    ],
)
def test_jobs_that_do_not_fit_their_episodes(message, job):
    refused(message, lambda header: header.update(jobs=[job]))


def test_a_job_does_not_give_back_episodes(message):
    jobs = [[7, 0.0, None, 2, [], []], [8, 0.0, None, -2, [], []], [9, 0.0, None, 2, [], []]]
    refused(message, lambda header: header.update(jobs=jobs))


def test_what_a_file_says_of_its_rows_is_compared_on_arrival(make_episode):
    """The decoder process passes it on as it found it; rows 0 and 3 of the first file could not be read."""
    episodes = tuple(make_episode(f"e{i}", seed=i) for i in range(5))
    right = [episode.row_sha256 for episode in episodes]
    unread = tuple(
        Problem(reason="bad_shape", field="obs", value="x", accepted="rows", index=i) for i in (0, 3)
    )
    recorded = right[0], right[1][::-1], None, ""
    first = Decoded(episodes=episodes[:4], problems=unread, recorded=recorded)
    second = Decoded(episodes=episodes[4:], recorded=("\udcff",))
    parts = wire.encode([Message(job=i, mtime_s=0.0, decoded=each) for i, each in enumerate((first, second))])
    several, one = [message.decoded for message in wire.decode(parts[0], b"".join(parts[1:]))]
    assert [episode.episode_id for episode in several.episodes] == ["e0", "e2"]
    assert [(each.index, each.reason, each.value) for each in several.problems] == [
        (0, "bad_shape", "x"),
        (2, "bad_value", right[1][::-1]),
        (3, "bad_shape", "x"),
        (5, "bad_value", ""),
    ]
    assert several.problems[1].accepted.startswith(f"{right[1]}, the sha256 of this row")
    assert (one.episodes, [each.value for each in one.problems]) == ((), ["\udcff"])
    assert several.recorded == one.recorded == ()


def test_what_an_episode_does_not_say_is_left_out(make_episode):
    prefix, rest = frame(Message(job=1, mtime_s=0.0, decoded=Decoded(episodes=(make_episode(),))))
    _, n_header, _ = wire.PREFIX.unpack(prefix)
    header = json.loads(rest[:n_header])
    assert header["varying"] == {"episode_id": [make_episode().episode_id]}
    assert header["common"].keys().isdisjoint(wire._NESTED)


@pytest.mark.parametrize("change", [{"unknown": 1}, {"terminated": None}, {"obs": [1.0]}, {"logp": [1.0]}])
@pytest.mark.parametrize("where", ["common", "varying"])
def test_other_fields_are_no_frame(message, change, where):
    """The decoder process may have been taken over by the file that it read."""

    def apply(header):
        for name, value in change.items():
            header["common"].pop(name, None)
            header["varying"].pop(name, None)
            header["blocks"] = [block for block in header["blocks"] if block[0] != name]
            if value is not None:
                header[where][name] = value if where == "common" else [value] * 2

    refused(message, apply)


def test_jobs_that_were_worked_on_together_share_a_frame(message, make_episode):
    problem = Problem(reason="truncated", field="file", value="0 bytes", accepted="more")
    alike = [make_episode(f"a{i}", ended_at=float(i), seed=i % 2 or None) for i in range(3)]
    several = [
        Message(job=1, mtime_s=1.0, decoded=Decoded(episodes=tuple(alike[:2]))),
        Message(job=2, mtime_s=2.0, problem=problem),
        Message(job=3, mtime_s=3.0, decoded=Decoded()),
        message,
        Message(job=8, mtime_s=4.0, decoded=Decoded(episodes=(alike[2],))),
    ]
    prefix, *rest = wire.encode(several)
    read = wire.decode(prefix, b"".join(rest))
    assert len(read) == len(several)
    for one, other in zip(read, several, strict=True):
        assert b"".join(wire.encode([one])) == b"".join(wire.encode([other]))


def test_extensions_that_only_look_alike_stay_what_they_are(make_episode):
    values = [{"x": 1}, {"x": True}, {"x": 1.0}, {}]
    episodes = tuple(make_episode(f"e{i}", extensions=value) for i, value in enumerate(values))
    (read,) = wire.decode(*frame(Message(job=1, mtime_s=0.0, decoded=Decoded(episodes=episodes))))
    assert list(map(repr, (e.extensions for e in read.decoded.episodes))) == list(map(repr, values))
