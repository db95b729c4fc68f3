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
    prefix, *rest = wire.encode(message)
    return prefix, b"".join(rest)


def test_round_trip(message):
    prefix, rest = frame(message)
    assert wire.frame_bytes(prefix) == len(rest)
    result = wire.decode(prefix, rest)
    assert (result.job, result.mtime_s, result.problem) == (7, 12.5, None)
    assert result.decoded.problems == message.decoded.problems
    for read, written in zip(result.decoded.episodes, message.decoded.episodes, strict=True):
        assert read.row_sha256 == written.row_sha256
        for name in ("obs", "action", "reward", "logp", "mask", "policy_version_step"):
            array = getattr(read, name)
            assert (array is None) == (getattr(written, name) is None)
            assert array is None or (array.flags.aligned and not array.flags.writeable)
        for name in wire._SCALARS:
            assert getattr(read, name) == getattr(written, name), name


def test_a_problem_of_the_whole_file():
    problem = Problem(reason="truncated", field="file", value="0 bytes", accepted="more")
    result = wire.decode(*frame(Message(job=1, mtime_s=0.0, problem=problem)))
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


@pytest.mark.parametrize(
    "entry", [["|O", [1], 0], ["<f8", [-1], 0], ["<f8", [2**60], 0], ["<f8", [1], -8], ["<f8", 3, 0], None]
)
def test_arrays_that_are_not_there(message, entry):
    prefix, rest = frame(message)
    _, n_header, n_body = wire.PREFIX.unpack(prefix)
    header = json.loads(rest[:n_header])
    header["episodes"][0]["arrays"]["reward"] = entry
    text = json.dumps(header).encode()
    with pytest.raises(BadFrame):
        wire.decode(wire.PREFIX.pack(b"LRN1", len(text), n_body), text + rest[n_header:])


def test_what_an_episode_does_not_say_is_left_out(make_episode):
    prefix, rest = frame(Message(job=1, mtime_s=0.0, decoded=Decoded(episodes=(make_episode(),))))
    _, n_header, _ = wire.PREFIX.unpack(prefix)
    (row,) = json.loads(rest[:n_header])["episodes"]
    assert not {"seed", "tags", "info_json", "observation_shape", "extensions"} & row.keys()
    assert row["terminated"] is not None


@pytest.mark.parametrize("change", [{"unknown": 1}, {"terminated": None}, {"obs": [1.0]}])
def test_a_row_of_other_fields_is_no_frame(message, change):
    """The decoder process may have been taken over by the file that it read."""
    prefix, rest = frame(message)
    _, n_header, n_body = wire.PREFIX.unpack(prefix)
    header = json.loads(rest[:n_header])
    for name, value in change.items():
        header["episodes"][0].pop(name, None)
        if value is not None:
            header["episodes"][0][name] = value
            header["episodes"][0]["arrays"].pop(name, None)
    text = json.dumps(header).encode()
    changed = wire.PREFIX.pack(prefix[:4], len(text), n_body)
    with pytest.raises(BadFrame):
        wire.decode(changed, text + rest[n_header:])
