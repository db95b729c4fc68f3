import dataclasses
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import experience
from experience import decode_child, wire
from experience.codec import Limits
from experience.decoder import DecodeJob, Decoder
from experience.decoder_process import DecoderFailed, DecoderProcess
from experience.errors import BadFrame, DecoderDied, reject
from experience.in_hand import SEVERAL
from experience.writer import EpisodeWriter

STEPS = b'{"obs": [1], "action": 0, "reward": 1}\n{"terminated": true}\n'
GOOD = b'{"client_id": "bot"}\n' + STEPS


@pytest.fixture
def job(tmp_path):
    """Write a file and describe it as a job."""
    (tmp_path / "work").mkdir()

    def build(name, content=GOOD):
        path = tmp_path / f"claimed.{name}"
        path.write_bytes(content)
        work = tmp_path / "work" / name
        return DecodeJob(claim_path=str(path), work_path=str(work), name=name, ingested_at=9.0)

    return build


@pytest.fixture(scope="module")
def shared():
    """One decoder for the tests that leave it whole: a start costs a second here."""
    with Decoder() as decoder:
        yield decoder


def verdicts(results):
    return [
        "died" if result.died else result.problem.reason if result.problem else len(result.decoded.episodes)
        for result in results
    ]


def test_results_in_order(shared, job):
    jobs = [
        job("a.jsonl"),
        job("b.npz", b"text"),
        job("c.jsonl", GOOD + GOOD),
        job("d.txt"),
    ]
    os.utime(jobs[0].claim_path, (50, 77.25))
    results = list(shared.decode(jobs))
    assert [result.job for result in results] == jobs
    assert verdicts(results) == [1, "malformed", 2, "unknown_format"]
    (episode,) = results[0].decoded.episodes
    assert results[0].mtime == 77.25
    assert (episode.client_id, episode.source_name, episode.ingested_at) == ("bot", "a.jsonl", 9.0)
    assert list(shared.decode([])) == []


def test_what_the_writer_deposits(shared, tmp_path):
    writer = EpisodeWriter(tmp_path / "spool", client_id="bot", env_id="CartPole-v1")
    for step in range(3):
        writer.step(np.full(4, step), step % 2, 1.0, logp=-0.7, policy_version=2)
    path = writer.end(np.full(4, 3), terminated=False, truncated=True)
    job = DecodeJob(claim_path=str(path), work_path=str(tmp_path / "work"), name=path.name, ingested_at=9.0)
    ((episode,),) = [result.decoded.episodes for result in shared.decode([job])]
    assert (episode.client_id, episode.env_id, episode.policy_version) == ("bot", "CartPole-v1", 2)
    assert (episode.terminated, episode.truncated, episode.n_steps) == (False, True, 3)
    np.testing.assert_array_equal(episode.obs, np.repeat(np.arange(4.0), 4).reshape(4, 4))


def test_more_jobs_than_the_pipes_hold(shared, job):
    rows = np.zeros((2000, 8), np.float32)
    file = io.BytesIO()
    np.savez(file, obs=rows, action=np.zeros(2000, int), reward=np.zeros(2000), terminated=np.True_)
    jobs = [job(f"{i}.npz", file.getvalue()) for i in range(60)]
    jobs += [job("x.npz", b"")] * 1000  # more than a pipe of job lines
    results = list(shared.decode(jobs))
    assert verdicts(results) == [1] * 60 + ["truncated"] * 1000


def test_names_of_any_bytes(shared, job):
    name = os.fsdecode(b"a\xff\n.jsonl")
    (result,) = shared.decode([job(name)])
    assert result.decoded.episodes[0].source_name == name


def test_a_file_cut_short_is_read_anew(shared, job):
    cut = job("a.jsonl", GOOD[:-3])
    assert verdicts(shared.decode([cut])) == ["truncated"]
    Path(cut.claim_path).write_bytes(GOOD)
    assert verdicts(shared.decode([cut])) == [1]
    Path(cut.claim_path).write_bytes(b"nonsense")
    assert verdicts(shared.decode([cut])) == [1]


def test_copies_of_files_that_are_read_together_stand_in_one_file(shared, job, tmp_path):
    work = str(tmp_path / "work" / "shared")
    jobs = [
        dataclasses.replace(job(f"{slot}.jsonl", content), work_path=work, slot=slot)
        for slot, content in enumerate([GOOD, GOOD[:-3], GOOD + GOOD, b"1\n" + GOOD])
    ]
    assert verdicts(shared.decode(jobs)) == [1, "truncated", 2, "malformed"]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["shared"]
    for one in jobs:
        Path(one.claim_path).write_bytes(GOOD * 5)  # by clients that kept their descriptors
    assert verdicts(shared.decode(jobs)) == [1, 5, 2, "malformed"]
    assert verdicts(shared.decode(jobs[::-1])) == ["malformed", 2, 5, 1]


def test_fifos_do_not_hang_it(shared, job):
    fifo = job("a.jsonl")
    Path(fifo.claim_path).unlink()
    os.mkfifo(fifo.claim_path)
    assert verdicts(shared.decode([fifo])) == ["not_regular"]


def test_the_child_ignores_the_groups_signals(shared, job):
    list(shared.decode([job("a.jsonl")]))
    pid = shared.pid
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert verdicts(shared.decode([job("b.jsonl")])) == [1]
    assert shared.pid == pid


def test_no_time_is_counted_while_the_caller_is_busy(job):
    with Decoder(deadline_s=2.0) as decoder:
        results = decoder.decode([job(f"{i}.jsonl") for i in range(3)])
        verdict = verdicts([next(results)])
        time.sleep(2.2)
        assert verdict + verdicts(results) == [1, 1, 1]


def test_a_hang_costs_one_file(job):
    with Decoder(deadline_s=2.0) as decoder:
        list(decoder.decode([job("first.jsonl")]))
        stopped = decoder.pid
        os.kill(stopped, signal.SIGSTOP)
        assert verdicts(decoder.decode([job("a.jsonl"), job("b.jsonl")])) == ["died", 1]
        assert decoder.pid != stopped
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)


def test_a_kill_costs_one_file(job):
    with Decoder() as decoder:
        list(decoder.decode([job("first.jsonl")]))
        os.kill(decoder.pid, signal.SIGSTOP)
        results = decoder.decode([job("a.jsonl"), job("b.jsonl")])
        threading.Timer(0.2, os.kill, (decoder.pid, signal.SIGKILL)).start()
        assert verdicts(results) == ["died", 1]


@pytest.mark.parametrize(
    ("in_hand", "expected"), [(SEVERAL, [1, 1]), (0, ["died", 1]), (1, [1, "died"]), (7, ["died", 1])]
)
def test_a_kill_costs_the_file_in_hand_or_the_first_but_none_of_several(job, in_hand, expected):
    with Decoder() as decoder:
        list(decoder.decode([job("first.jsonl")]))
        os.kill(decoder.pid, signal.SIGSTOP)

        def meanwhile():
            os.pwrite(decoder._child._in_hand.descriptor, struct.pack("<q", in_hand), 0)
            os.kill(decoder.pid, signal.SIGKILL)
            return ()

        results = decoder.decode([job("a.jsonl"), job("b.jsonl")], meanwhile=meanwhile)
        assert verdicts(results) == expected


def test_what_was_in_hand_in_an_earlier_call_is_not_blamed(job):
    with Decoder() as decoder:
        assert verdicts(decoder.decode([job("a.jsonl"), job("b.npz", b"text")])) == [1, "malformed"]
        assert os.pread(decoder._child._in_hand.descriptor, 8, 0) == struct.pack("<q", 1)
        os.kill(decoder.pid, signal.SIGSTOP)
        kill = lambda: os.kill(decoder.pid, signal.SIGKILL) or ()  # noqa: E731
        assert verdicts(decoder.decode([job("c.jsonl"), job("d.jsonl")], meanwhile=kill)) == ["died", 1]


def test_of_further_jobs_too_none_is_blamed_before_it_was_read_alone(job, monkeypatch):
    decode = wire.decode

    def refuse_one(prefix, rest):
        messages = decode(prefix, rest)
        if any(each.decoded and each.decoded.episodes[0].source_name == "c.jsonl" for each in messages):
            raise BadFrame("an episode that is none")
        return messages

    monkeypatch.setattr(wire, "decode", refuse_one)
    more = [job("b.jsonl"), job("c.jsonl"), job("d.jsonl")]
    with Decoder() as decoder:
        assert verdicts(decoder.decode([job("a.jsonl")], meanwhile=lambda: more)) == [1, 1, "died", 1]


@pytest.fixture
def fake_child(tmp_path, monkeypatch):
    """A decoder process that only writes these bytes."""

    def start(*frames):
        script = tmp_path / "child"
        data = b"".join(bytes(part) for frame in frames for part in frame)
        script.write_text(f"#!{sys.executable}\nimport os\nos.write(1, {data!r})\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return DecoderProcess("{}", 2**20)

    return start


READY = wire.encode([wire.Message(job=decode_child.READY, mtime_s=0.0)])
ANSWER = wire.encode([wire.Message(job=0, mtime_s=0.0, problem=reject("x", "y", "z", "a").problem)])


def test_what_a_child_answered_before_it_died_is_read_although_lines_are_unsent(fake_child):
    child = fake_child(READY, ANSWER)
    assert [message.job for message in child.receive(30.0)] == [decode_child.READY]
    while child.is_running():
        time.sleep(0.01)
    child.send(b"x" * 2**20)
    assert [message.job for message in child.receive(30.0)] == [0]
    with pytest.raises(DecoderFailed):
        child.receive(30.0)
    child.stop()
    assert child.is_trusted


def test_a_frame_that_no_child_could_hold_is_none(fake_child):
    child = fake_child([wire.PREFIX.pack(b"LRN2", 2**31, 2**40)])
    with pytest.raises(DecoderFailed) as caught:
        child.receive(30.0)
    child.stop()
    assert isinstance(caught.value.__cause__, BadFrame)
    assert not child.is_trusted


def test_a_decoder_that_is_closed_while_its_child_starts_yields_nothing(job, monkeypatch):
    decoder = Decoder()
    receive = DecoderProcess.receive

    def closing(child, deadline_s):
        decoder.close()
        return receive(child, deadline_s)

    monkeypatch.setattr(DecoderProcess, "receive", closing)
    assert list(decoder.decode([job("a.jsonl")])) == []


def test_a_decoder_that_is_closed_meanwhile_yields_nothing(job):
    with Decoder() as decoder:
        jobs = [job("b.jsonl")]
        assert list(decoder.decode([job("a.jsonl")], meanwhile=lambda: decoder.close() or jobs)) == []


def run_alone(code):
    """What a fresh Python process prints that does ``code``."""
    environment = {**os.environ, "PYTHONPATH": str(Path(experience.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)


def test_what_libraries_print_is_no_frame():
    code = (
        "import os; from experience.decode_child import _take_output; output = _take_output();"
        "os.write(1, b'noise'); output.write(b'frame'); output.flush()"
    )
    found = run_alone(code)
    assert (found.stdout, found.stderr) == ("frame", "noise")


def test_what_is_to_be_done_meanwhile_is_done_once_before_any_result(shared, job):
    done = []
    results = shared.decode([job("a.jsonl"), job("b.jsonl")], meanwhile=lambda: done.append("done") or ())
    next(results)
    assert done == ["done"]
    assert verdicts(results) == [1]
    assert done == ["done"]


def test_further_jobs_follow_the_first(shared, job):
    jobs = [job(f"{number}.jsonl", GOOD * (1 + number % 3)) for number in range(50)]
    results = list(shared.decode(jobs[:3], meanwhile=lambda: iter(jobs[3:])))
    assert [result.job for result in results] == jobs
    assert verdicts(results) == [1 + number % 3 for number in range(50)]


def test_meanwhile_comes_once_also_where_the_child_dies(job):
    with Decoder() as decoder:
        list(decoder.decode([job("first.jsonl")]))
        os.kill(decoder.pid, signal.SIGSTOP)
        done = []

        def meanwhile():
            done.append("done")
            os.kill(decoder.pid, signal.SIGKILL)
            return [job("c.jsonl")]

        results = decoder.decode([job("a.jsonl"), job("b.jsonl")], meanwhile=meanwhile)
        assert verdicts(results) == ["died", 1, 1]
        assert done == ["done"]


def test_no_result_comes_when_what_is_done_meanwhile_fails(job):
    def fail():
        raise OSError(28, "injected")

    with Decoder() as decoder:
        with pytest.raises(OSError, match="injected"):
            list(decoder.decode([job("a.jsonl")], meanwhile=fail))
        assert verdicts(decoder.decode([job("b.jsonl"), job("c.jsonl")])) == [1, 1]


def test_a_death_between_calls_costs_nothing(job):
    with Decoder() as decoder:
        list(decoder.decode([job("first.jsonl")]))
        os.kill(decoder.pid, signal.SIGKILL)
        os.waitid(os.P_PID, decoder.pid, os.WEXITED | os.WNOWAIT)
        assert verdicts(decoder.decode([job("a.jsonl")])) == [1]


def test_what_was_answered_before_a_death_counts(job):
    """The child dies on the second of many jobs, while most of their lines are still unsent."""
    jobs = [job("a.jsonl"), job("b.jsonl")] + [job("c.jsonl")] * 600
    with Decoder() as decoder:
        list(decoder.decode([jobs[0]]))
        results = decoder.decode(jobs)
        first = next(results)
        os.kill(decoder.pid, signal.SIGKILL)
        rest = verdicts(results)
        assert verdicts([first]) == [1]
        assert rest.count("died") <= 1  # none, where it had done by then what it had been sent
        assert rest.count(1) == len(jobs) - 1 - rest.count("died")
        assert rest[-1] == 1


def test_an_answer_that_is_none_costs_its_own_file(job, monkeypatch):
    """The child is far ahead by then: what it has in hand is another's file."""
    decode, jobs = wire.decode, [job(f"{number}.jsonl") for number in range(12)]

    def refuse_one(prefix, rest):
        messages = decode(prefix, rest)
        for message in messages:
            if message.decoded and message.decoded.episodes[0].source_name == "3.jsonl":
                raise BadFrame("an episode that is none")
        return messages

    monkeypatch.setattr(wire, "decode", refuse_one)
    with Decoder() as decoder:
        assert verdicts(decoder.decode(jobs)) == [1, 1, 1, "died", *[1] * 8]


@pytest.mark.parametrize("told", [{"decoded": None}, {"problem": reject("x", "y", "z", "a").problem}])
def test_an_answer_that_tells_nothing_or_two_things_is_none(job, monkeypatch, told):
    decode, jobs = wire.decode, [job(f"{number}.jsonl") for number in range(3)]

    def change_one(prefix, rest):
        os.pwrite(decoder._child._in_hand.descriptor, struct.pack("<q", 2), 0)  # the child is far ahead
        return [
            dataclasses.replace(message, **told) if message.job == 1 else message
            for message in decode(prefix, rest)
        ]

    monkeypatch.setattr(wire, "decode", change_one)
    with Decoder() as decoder:
        assert verdicts(decoder.decode(jobs)) == [1, "died", 1]


def test_memory_is_a_verdict(job):
    lines = b'{"obs": [' + b"1.5," * 5_000_000 + b'0], "action": 0, "reward": 1}\n{"terminated": true}\n'
    with Decoder(address_space_bytes=256 * 2**20) as decoder:
        results = list(decoder.decode([job("big.jsonl", b"{}\n" + lines), job("a.jsonl")]))
        assert verdicts(results) == ["too_large", 1]
        assert "256 MiB" in results[0].problem.value


def test_the_largest_file_fits(job):
    """116 MiB decoded from 56 MiB of file; a quarter of the address space stays free for pyarrow."""
    members = {
        "obs": np.ones((14, 2**20), np.float32),
        "mask": np.ones((13, 60 * 2**20 // 13), bool),
        "action": np.zeros(13, int),
        "reward": np.zeros(13),
        "terminated": np.True_,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.save(content, array)
            method = zipfile.ZIP_DEFLATED if name == "mask" else zipfile.ZIP_STORED
            archive.writestr(f"{name}.npy", content.getbuffer(), method, 1)
    with Decoder(address_space_bytes=384 * 2**20) as decoder:
        assert verdicts(decoder.decode([job("large.npz", file.getbuffer())])) == [1]


def test_limits_reach_the_child(job):
    with Decoder(Limits(max_file_bytes=10)) as decoder:
        assert verdicts(decoder.decode([job("a.jsonl")])) == ["too_large"]


def test_an_iterator_that_is_left_early(job):
    with Decoder() as decoder:
        results = decoder.decode([job("a.jsonl"), job("b.npz", b"text")])
        next(results)
        results.close()
        assert decoder.pid is None
        assert verdicts(decoder.decode([job("c.jsonl", GOOD + GOOD)])) == [2]


def test_close_from_another_thread(job):
    decoder = Decoder()
    list(decoder.decode([job("first.jsonl")]))
    pid = decoder.pid
    os.kill(pid, signal.SIGSTOP)
    found = []
    thread = threading.Thread(target=lambda: found.extend(decoder.decode([job("a.jsonl")])))
    thread.start()
    time.sleep(0.1)
    decoder.close()
    thread.join(5)
    assert not thread.is_alive()
    assert found == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(decoder.decode([job("a.jsonl")])) == []
    decoder.close()


def test_a_child_that_cannot_start(job, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Decoder() as decoder, pytest.raises(DecoderDied, match="exit status 1"):
        list(decoder.decode([job("a.jsonl")]))


def test_the_child_ends_with_its_standard_input():
    """As when the parent is killed: the pipe closes, and nothing is left running."""
    command = [sys.executable, "-P", "-m", "experience.decode_child"]
    environment = {**os.environ, "PYTHONPATH": str(Path(experience.__file__).parents[1])}
    settings = decode_child.settings_json(Limits(), 2**29)
    finished = subprocess.run(
        [*command, settings], input=b"", capture_output=True, env=environment, timeout=60, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, b"")
    prefix, rest = finished.stdout[: wire.PREFIX.size], finished.stdout[wire.PREFIX.size :]
    assert [message.job for message in wire.decode(prefix, rest)] == [decode_child.READY]


def test_whatever_a_job_raises_is_its_problem(job, monkeypatch):
    def crash(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(decode_child, "decoding", crash)
    line = json.dumps({"job": 3, **dataclasses.asdict(job("a.jsonl"))})
    output = io.BytesIO()
    decode_child.serve([f"[{line}]".encode()], output, Limits())
    frames = output.getvalue()
    prefix, frames = frames[: wire.PREFIX.size], frames[wire.PREFIX.size :]
    frames = frames[wire.frame_bytes(prefix) :]
    (message,) = wire.decode(frames[: wire.PREFIX.size], frames[wire.PREFIX.size :])
    assert (message.job, message.problem.reason) == (3, "malformed")
    assert message.problem.value == "ZeroDivisionError: a bug"


def test_decoding_loads_neither_torch_nor_pyarrow():
    code = (
        "import sys, experience.codec, experience.codec.npz, experience.codec.jsonl, experience.decoder;"
        "print(sorted({'torch', 'pyarrow', 'safetensors', 'filelock', 'pickle'} & set(sys.modules)))"
    )
    assert run_alone(code).stdout.strip() in ("[]", "['pickle']")  # numpy itself imports pickle
