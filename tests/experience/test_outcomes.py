import json
import os

import pytest

from experience.outcomes import Outcome, Outcomes


def outcome(key, *, verdict="refused", reason="too_old", **changes):
    values = {"name": "a.npz", "field": "ended_at", "value": "9 s ago", "accepted": "5 s", "at": 1.5}
    return Outcome(key=key, verdict=verdict, reason=reason, **values | changes)


def test_counts_by_verdict_and_reason(tmp_path):
    outcomes = Outcomes(tmp_path / "new" / "outcomes.jsonl")
    assert outcomes.counts() == {"refused": {}, "quarantined": {}}
    outcomes.record([outcome("a/0"), outcome("a/1", reason="mask"), outcome("b/0")])
    outcomes.record([outcome("c/", verdict="quarantined", reason="truncated")])
    expected = {"refused": {"mask": 1, "too_old": 2}, "quarantined": {"truncated": 1}}
    assert outcomes.counts() == expected
    assert Outcomes(tmp_path / "new" / "outcomes.jsonl").counts() == expected


def test_a_key_counts_once_in_a_call_and_after_a_restart(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path).record([outcome("a/0"), outcome("a/0", reason="mask")])
    again = Outcomes(path)
    assert again.known("a/0")
    assert not again.known("a/1")
    again.record([outcome("a/0", verdict="quarantined", reason="truncated")])
    assert again.counts() == {"refused": {"too_old": 1}, "quarantined": {}}
    assert len(path.read_bytes().splitlines()) == 1


def test_records_hold_every_field_also_of_odd_names(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path).record([outcome("a/0", name="caf\udce9\n\u2028.npz", client_id="bot")])
    line = path.read_bytes().decode("ascii")
    assert line.count("\n") == 1
    record = json.loads(line)
    assert record["name"] == "caf\udce9\n\u2028.npz"
    assert record["client_id"] == "bot"
    assert list(record) == [
        "key",
        "verdict",
        "reason",
        "name",
        "field",
        "value",
        "accepted",
        "client_id",
        "at",
    ]
    assert Outcomes(path).known("a/0")


def test_a_record_is_one_write_and_one_fsync(tmp_path, monkeypatch):
    outcomes = Outcomes(tmp_path / "outcomes.jsonl")
    outcomes.record([outcome("a/0")])
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(file), real(file)))
    outcomes.record([outcome(f"b/{i}") for i in range(100)])
    assert len(calls) == 1
    outcomes.record([])
    outcomes.record([outcome("b/7")])
    assert len(calls) == 1


def test_every_truncation_counts_the_whole_lines_and_replays_exactly(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    everything = [outcome(f"c{i}/{j}", reason=f"r{j}") for i in range(2) for j in range(2)]
    Outcomes(path).record(everything)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        reader, writer = Outcomes(path), Outcomes(path)
        assert sum(reader.counts()["refused"].values()) == data[:length].count(b"\n")
        assert path.read_bytes() == data[:length]
        writer.record(everything)
        assert (
            writer.counts() == Outcomes(path).counts() == {"refused": {"r0": 2, "r1": 2}, "quarantined": {}}
        )
        assert path.read_bytes() == data


def test_every_flipped_byte_loses_no_more_than_its_neighbors(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path).record([outcome(f"c/{i}", reason=f"r{i}") for i in range(3)])
    data = path.read_bytes()
    for i in range(len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        outcomes = Outcomes(path)
        counts = outcomes.counts()
        assert sum(sum(reasons.values()) for reasons in counts.values()) >= 1
        assert outcomes.damaged_lines <= 2


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path).record([outcome("a/0")])
    lines = [b"[]", b"{}", b'"totals"', b'{"totals": 3}', b'{"totals": {"x": {}}}', b"\xff", b"",
             b'{"key": 1, "verdict": "refused", "reason": "x"}',
             b'{"key": "a", "verdict": "refused", "reason": []}']  # fmt: skip
    with path.open("ab") as file:
        file.write(b"\n".join(lines) + b"\n")
    outcomes = Outcomes(path)
    assert outcomes.damaged_lines == len(lines)
    assert outcomes.counts() == {"refused": {"too_old": 1}, "quarantined": {}}


def test_fold_keeps_counts_and_the_keys_that_may_come_again(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    outcomes = Outcomes(path)
    outcomes.record([outcome(f"gone{i}/0", reason="mask") for i in range(50)])
    outcomes.record([outcome("here/0"), outcome("here/1", verdict="quarantined")])
    assert not outcomes.fold({"here"})
    before, size = outcomes.counts(), path.stat().st_size
    for _ in range(2):
        assert outcomes.fold({"here"}, above_bytes=0)
        assert outcomes.counts() == Outcomes(path).counts() == before
    assert path.stat().st_size < size / 5
    assert not outcomes.known("gone1/0")
    outcomes.record([outcome("here/1"), outcome("new/0")])
    assert outcomes.counts() == {"refused": {"mask": 50, "too_old": 2}, "quarantined": {"too_old": 1}}
    assert Outcomes(path).counts() == outcomes.counts()
    assert outcomes.fold((), above_bytes=0)
    assert Outcomes(path).counts() == outcomes.counts()
    assert len(path.read_bytes().splitlines()) == 1


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_an_error_counts_nothing_and_a_second_try_counts_once(tmp_path, monkeypatch, name):
    path = tmp_path / "outcomes.jsonl"
    outcomes = Outcomes(path)
    outcomes.record([outcome("a/0")])
    real = os.write

    def fail(file, data=b""):
        if data:
            real(file, bytes(data[: len(data) // 2]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space"):
            outcomes.record([outcome("b/0"), outcome("b/1")])
    assert outcomes.counts() == {"refused": {"too_old": 1}, "quarantined": {}}
    outcomes.record([outcome("b/0"), outcome("b/1")])
    assert outcomes.counts() == Outcomes(path).counts() == {"refused": {"too_old": 3}, "quarantined": {}}
    assert outcomes.damaged_lines == Outcomes(path).damaged_lines == 0


def test_counts_are_exact_after_a_kill_at_every_call(tmp_path, killed_at):
    rounds = [[outcome(f"c{i}/{j}") for j in range(3)] for i in range(4)]
    for k in range(100):
        path = tmp_path / f"{k}.jsonl"
        with killed_at(k) as kill:
            run(path, rounds)
        run(path, rounds)
        assert Outcomes(path).counts() == {"refused": {"too_old": 12}, "quarantined": {}}
        if not kill.happened:
            assert k > 20
            return
    pytest.fail("more calls than expected")


def run(path, rounds):
    outcomes = Outcomes(path)
    for batch in rounds:
        outcomes.record(batch)
        outcomes.fold({f"c{j}" for j in range(len(rounds))}, above_bytes=300)


def test_a_new_process_writes_what_it_read_to_a_new_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "outcomes.jsonl"
    outcomes = Outcomes(path)
    outcomes.renew()
    assert path.read_bytes() == b""

    def fail(file):
        raise OSError(5, "injected")

    outcomes.record([outcome("a/0")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="injected"):
            outcomes.record([outcome("b/0")])
    inode, content = path.stat().st_ino, path.read_bytes()
    assert content.count(b"\n") == 2  # can be read, but may not be on the disk
    again = Outcomes(path)
    again.renew()
    assert path.stat().st_ino != inode
    assert path.read_bytes() == content
    assert again.known("b/0")


def test_a_file_removed_under_a_running_writer_begins_anew(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    outcomes = Outcomes(path)
    outcomes.record([outcome("a/0")])
    path.unlink()
    outcomes.record([outcome("b/0")])
    assert Outcomes(path).counts() == {"refused": {"too_old": 1}, "quarantined": {}}
    assert Outcomes(path).damaged_lines == 0


def test_finished_claims_are_forgotten_but_not_their_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("experience.outcomes.RECENT_CLAIMS", 10)
    outcomes = Outcomes(tmp_path / "outcomes.jsonl")
    for i in range(50):
        outcomes.record([outcome(f"claim{i}/0"), outcome(f"claim{i}/1")])
        outcomes.forget(f"claim{i}")
        outcomes.forget("never seen")
    assert not outcomes.known("claim0/0")
    assert outcomes.known("claim49/1")
    assert len(outcomes._keys) == 10
    outcomes.record([outcome("claim49/1")])  # a batch that is finished a second time
    assert outcomes.counts() == Outcomes(tmp_path / "outcomes.jsonl").counts()
    assert sum(outcomes.counts()["refused"].values()) == 100


def test_a_short_record_is_not_compacted_but_only_present_claims_are_remembered(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path).record([outcome("gone/0"), outcome("here/0")])
    outcomes = Outcomes(path)
    assert not outcomes.fold({"here"})
    assert outcomes.known("here/0")
    assert not outcomes.known("gone/0")
    assert sum(outcomes.counts()["refused"].values()) == 2
