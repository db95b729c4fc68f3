import contextlib
import gc
import io
import json
import time
import weakref

import numpy as np
import pytest

from experience import decode_child, wire
from experience.codec import Limits
from experience.errors import reject
from experience.in_hand import NONE, SEVERAL, InHand, InHandFile
from experience.in_step import ALL, Request, finish, in_step


def work(name, n_steps, done):
    for step in range(n_steps):
        done.append((name, step))
        yield
    return name


def test_a_step_of_each_in_turn():
    done = []
    assert in_step([work("a", 2, done), work("b", 0, done), work("c", 3, done)]) == ["a", "b", "c"]
    assert done == [("a", 0), ("c", 0), ("a", 1), ("c", 1), ("c", 2)]
    assert finish(work("d", 1, done)) == "d"
    assert in_step([]) == []


def test_whose_step_begins_is_told_and_the_first_error_ends_it():
    def failing():
        yield
        raise KeyError("second step")

    begun = []
    with pytest.raises(KeyError):
        in_step([work("a", 3, []), failing(), work("b", 3, [])], begin=begun.append)
    assert begun == [0, 1, 2, 0, 1]


def test_what_has_not_ended_when_it_is_to_stop_stays_so():
    done, left = [], iter([True] * 4 + [False])
    assert in_step([work("a", 1, done), work("b", 2, done)], go_on=lambda: next(left)) == ["a", None]
    assert done == [("a", 0), ("b", 0), ("b", 1)]


class Square(Request):
    asked = ()

    def __init__(self, number):
        self.number = number

    def alone(self):
        if self.number < 0:
            raise KeyError(self.number)
        return self.number**2

    @classmethod
    def together(cls, requests):
        cls.asked.append([request.number for request in requests])
        return [KeyError(each.number) if each.number < 0 else each.alone() for each in requests]


class Cube(Square):
    asked = ()

    def alone(self):
        return self.number**3


def squares(*requests):
    found = []
    for request in requests:
        try:
            found.append((yield request))
        except KeyError as error:
            found.append(error.args)
    return found


def test_what_is_asked_for_in_a_step_is_answered_together():
    Square.asked, Cube.asked = [], []
    works = [squares(Square(2), None, Square(3)), squares(Square(-1), Cube(2)), squares(Cube(4)), squares()]
    assert in_step(works) == [[4, None, 9], [(-1,), 8], [64], []]
    assert (Square.asked, Cube.asked) == ([[2, -1], [3]], [[4], [2]])
    assert finish(squares(Square(2), Cube(3), None)) == [4, 27, None]
    assert finish(squares(Square(-2), Square(3))) == [(-2,), 9]


def test_nobody_is_named_while_something_is_done_for_several():
    Square.asked, begun = [], []
    in_step([squares(Square(2)), squares(Square(3))], begin=begun.append)
    assert begun == [0, 1, ALL, 0, 1]


def test_an_error_in_place_of_an_answer_is_raised_where_it_was_asked_for():
    def failing():
        yield Square(-5)

    Square.asked = []
    with pytest.raises(KeyError, match="-5"):
        finish(failing())
    with pytest.raises(KeyError, match="-5"):
        in_step([squares(Square(1)), failing()])


def test_an_error_does_not_hold_what_it_is_about():
    """It would until garbage is looked for, which is seldom, and be as large as a file."""

    class Large(Square):
        pass

    def asking(large):
        yield large

    gc.disable()
    try:
        large = Large(-1)
        held = weakref.ref(large)
        with contextlib.suppress(KeyError):
            finish(asking(large))
        del large
        assert held() is None
    finally:
        gc.enable()


def test_what_is_in_hand_is_read_by_the_parent():
    file = InHandFile()
    assert file.read() == NONE
    child = InHand(file.descriptor)
    child.note(2**40)
    assert file.read() == 2**40
    file.clear()
    assert file.read() == NONE
    InHand().note(7)
    file.close()


def answers(lines, **options):
    output = io.BytesIO()
    decode_child.serve([json.dumps(line).encode() for line in lines], output, Limits(), **options)
    frames, messages = output.getvalue(), []
    while frames:
        end = wire.PREFIX.size + wire.frame_bytes(frames[: wire.PREFIX.size])
        messages += wire.decode(frames[: wire.PREFIX.size], frames[wire.PREFIX.size : end])
        frames = frames[end:]
    assert messages.pop(0).job == decode_child.READY
    return messages


@pytest.fixture
def jobs(tmp_path):
    """Jobs for files with these contents."""

    def build(*contents, suffix="npz"):
        made = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(content)
            work_path = str(tmp_path / f"work-{number}")
            made.append(
                {
                    "job": number,
                    "claim_path": str(path),
                    "work_path": work_path,
                    "name": path.name,
                    "ingested_at": 1.0,
                    "slot": 0,
                }
            )
        return made

    return build


def npz(seed, **changes):
    rng = np.random.default_rng(seed)
    arrays = {
        "obs": rng.random((4, 2)),
        "action": np.zeros(3, int),
        "reward": rng.random(3),
        "terminated": True,
    }
    file = io.BytesIO()
    np.savez(file, **(arrays | changes))
    return file.getvalue()


def test_files_in_step_are_answered_as_one_by_one(jobs):
    good = [npz(seed) for seed in range(3)]
    made = jobs(good[0], b"text", good[1], npz(9, reward=np.full(3, np.nan)), good[2][:-40], good[2], b"")
    together, alone = answers([made]), answers([[job] for job in made])
    assert [message.job for message in together] == list(range(7))
    assert [m.problem.reason if m.problem else "read" for m in together] == [
        *("read", "malformed", "read", "not_finite", "truncated", "read", "truncated")
    ]
    for one, other in zip(together, alone, strict=True):
        assert b"".join(wire.encode([one])) == b"".join(wire.encode([other]))


def test_where_memory_runs_out_each_file_gets_all_of_it(jobs, monkeypatch):
    made, in_hand, decoding = jobs(npz(1), npz(2), npz(3)), set(), decode_child.decoding

    def greedy(data, **keywords):
        in_hand.add(keywords["name"])
        if keywords["name"] == "1.npz" and (len(in_hand) > 1 or greedy.always):
            in_hand.clear()
            raise MemoryError
        yield
        decoded = yield from decoding(data, **keywords)
        in_hand.discard(keywords["name"])
        return decoded

    monkeypatch.setattr(decode_child, "decoding", greedy)
    greedy.always = False
    assert [message.problem for message in answers([made])] == [None] * 3
    greedy.always = True
    found = [message.problem and message.problem.reason for message in answers([made])]
    assert found == [None, "too_large", None]


def test_what_is_wrong_with_a_file_is_found_where_it_is_alone(jobs, monkeypatch):
    """Beside others it may fail for lack of memory, in words of a library that do not say so."""
    made, decoding, running = jobs(npz(1), npz(2), b"text"), decode_child.decoding, []

    def strained(data, **keywords):
        running.append(keywords["name"])
        try:
            yield
            if len(running) > 1:
                raise reject("malformed", "obs", "Error -4", "deflated data")
            return (yield from decoding(data, **keywords))
        finally:
            running.remove(keywords["name"])

    monkeypatch.setattr(decode_child, "decoding", strained)
    found = [message.problem and message.problem.field for message in answers([made])]
    assert found == [None, None, "first bytes"]


def test_slow_files_do_not_wait_for_each_other(jobs, monkeypatch):
    """Sixteen of them would overrun the parent's deadline, and good files would be told to have ended it."""
    decoding, made = decode_child.decoding, jobs(*map(npz, range(6)))
    slept = []

    def slow(data, **keywords):
        slept.append(keywords["name"])
        time.sleep(0.05)
        yield
        return (yield from decoding(data, **keywords))

    class Output(io.BytesIO):
        def flush(self):
            size = len(self.getvalue())
            if size > sizes[-1][0]:
                sizes.append((size, time.monotonic()))

    sizes = [(0, time.monotonic())]
    monkeypatch.setattr(decode_child, "decoding", slow)
    monkeypatch.setattr(decode_child, "_TOGETHER_S", 0.08)
    decode_child.serve([json.dumps(made).encode()], Output(), Limits())
    assert len(sizes) == 8  # one more for the first frame: the child is ready
    assert 6 < len(slept) <= 9  # what was begun in step, and each of them alone


def test_large_files_are_read_one_by_one(jobs, monkeypatch):
    monkeypatch.setattr(decode_child, "_SMALL_BYTES", 100)
    begun = []
    assert [m.job for m in answers([jobs(npz(1), npz(2))], begin=begun.append)] == [0, 1]
    assert begun == [0, 1]


def test_a_bug_costs_one_file_of_those_in_step(jobs, monkeypatch):
    decoding = decode_child.decoding

    def crash(data, **keywords):
        yield
        if keywords["name"] == "1.npz":
            raise ZeroDivisionError("a bug")
        if keywords["name"] == "2.npz":
            raise reject("malformed", "file", "x", "y")
        return (yield from decoding(data, **keywords))

    monkeypatch.setattr(decode_child, "decoding", crash)
    found = answers([jobs(*map(npz, range(4)))])
    assert [m.problem and m.problem.value for m in found] == [None, "ZeroDivisionError: a bug", "x", None]


def test_a_bug_where_several_are_answered_costs_none(jobs, monkeypatch):
    class Failing(Request):
        def alone(self):
            return None

        @classmethod
        def together(cls, requests):
            raise ZeroDivisionError

    def asking(data, **keywords):
        yield Failing()
        return (yield from decoding(data, **keywords))

    begun, decoding = [], decode_child.decoding
    monkeypatch.setattr(decode_child, "decoding", asking)
    found = answers([jobs(*map(npz, range(3)))], begin=begun.append)
    assert [m.problem for m in found] == [None] * 3
    assert begun[-5:] == [SEVERAL, NONE, 0, 1, 2]


def test_nobody_is_named_while_answers_are_put_into_a_frame(jobs, monkeypatch):
    begun, encode = [], decode_child.encode

    def noted(messages):
        begun.append(len(messages))
        return encode(messages)

    monkeypatch.setattr(decode_child, "encode", noted)
    assert len(answers([jobs(npz(1), npz(2))], begin=begun.append)) == 2
    assert begun[-3:] == [SEVERAL, 2, NONE]


def test_what_is_answered_is_sent_before_a_file_is_read_alone(jobs):
    """It may end the process, and those before it would be read again, one of them maybe blamed."""

    class Sent(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, part):
            self.data += bytes(part)
            return len(part)

    sent, sizes = Sent(), []
    output = io.BufferedWriter(sent, 2**18)
    line = json.dumps(jobs(npz(1), b"text", npz(2))).encode()
    decode_child.serve([line], output, Limits(), begin=lambda number: sizes.append((number, len(sent.data))))
    ready = sizes[0][1]
    alone = max(size for number, size in sizes if number == 1)
    assert ready < alone < len(sent.data)


def test_small_files_that_hold_much_have_a_frame_each(jobs, monkeypatch):
    """Of some in one frame the parent could let go of none before it has let go of all."""
    sizes, made = [], jobs(*map(npz, range(3)))
    monkeypatch.setattr(wire, "decode", lambda *parts, decode=wire.decode: sizes.append(1) or decode(*parts))
    alone = answers([[job] for job in made])
    for limit, n_frames in ((2**22, 1), (700, 3)):
        monkeypatch.setattr(decode_child, "_FRAME_BYTES", limit)
        sizes.clear()
        together = answers([made])
        assert len(sizes) == 1 + n_frames  # one more: the child is ready
        for one, other in zip(together, alone, strict=True):
            assert b"".join(wire.encode([one])) == b"".join(wire.encode([other]))
