import hashlib
import os
import socket

import pytest

from experience import intake_file
from experience.codec import Limits
from experience.errors import InputError
from experience.work_file import WorkFile

LIMITS = Limits(max_file_bytes=1000)
DATA = b"some bytes\n" * 9


@pytest.fixture
def claim(tmp_path):
    path = tmp_path / "claim"
    path.write_bytes(DATA)
    os.utime(path, (1000, 1234.5))
    return path


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder / "copy"


def read_claimed(claim, work, limits):
    """As a process that begins anew."""
    opened = WorkFile(work)
    try:
        return intake_file.read_claimed(claim, opened, 3, limits)
    finally:
        opened.close()


def problem_of(claim, work, limits=LIMITS):
    with pytest.raises(InputError) as caught:
        read_claimed(claim, work, limits)
    problem = caught.value.problem
    return problem.reason, problem.value


def test_bytes_hash_and_time(claim, work):
    assert read_claimed(claim, work, LIMITS) == (DATA, hashlib.sha256(DATA).hexdigest(), 1234.5)
    assert [path.name for path in work.parent.iterdir()] == ["copy"]


def test_the_copy_is_what_a_later_attempt_sees(claim, work):
    first = read_claimed(claim, work, LIMITS)
    claim.write_bytes(b"written by a client that kept its descriptor")
    os.utime(claim, (1000, 1234.5))
    assert read_claimed(claim, work, LIMITS) == first
    for _ in range(2):
        opened = WorkFile(work)
        opened.drop(3)
        opened.close()
    assert read_claimed(claim, work, LIMITS).data.startswith(b"written")


def test_a_damaged_copy_is_made_again(claim, work):
    read_claimed(claim, work, LIMITS)
    whole = work.read_bytes()
    for damaged in (b"", b"short", bytes(len(whole)), whole[:-1], whole[:-32] + bytes(32), DATA):
        work.write_bytes(damaged)
        assert read_claimed(claim, work, LIMITS).data == DATA
        assert work.read_bytes().endswith(whole)
        claim.write_bytes(b"later")
        assert read_claimed(claim, work, LIMITS).data == DATA
        claim.write_bytes(DATA)


def test_a_copy_that_cannot_be_written_is_no_fault_of_the_file(claim, tmp_path):
    assert read_claimed(claim, tmp_path / "missing" / "copy", LIMITS).data == DATA


def test_a_copy_that_is_cut_short_is_none(claim, work, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda file, parts, at: os.pwrite(file, parts[1][:5], at))
        assert read_claimed(claim, work, LIMITS).data == DATA
    assert work.read_bytes() == b""
    claim.write_bytes(b"later")
    assert read_claimed(claim, work, LIMITS).data == b"later"


def test_an_empty_file(claim, work):
    claim.write_bytes(b"")
    assert read_claimed(claim, work, LIMITS).data == b""
    assert read_claimed(claim, work, LIMITS).data == b""


def test_size(claim, work):
    claim.write_bytes(bytes(1000))
    assert len(read_claimed(claim, work, LIMITS).data) == 1000
    claim.write_bytes(bytes(1001))
    assert problem_of(claim, work) == ("too_large", "1001 bytes")


def test_a_file_that_grows_while_it_is_read(claim, work, monkeypatch):
    real = os.fstat

    def growing(descriptor):
        status = real(descriptor)
        with claim.open("ab") as file:
            file.write(bytes(2000))
        return status

    monkeypatch.setattr(os, "fstat", growing)
    assert problem_of(claim, work)[0] == "too_large"


def test_a_file_replaced_between_check_and_open(claim, work, monkeypatch, tmp_path):
    real = os.open

    def swapping(path, flags, *args):
        (tmp_path / "other").write_bytes(b"other")
        (tmp_path / "other").replace(claim)
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", swapping)
    assert problem_of(claim, work) == ("not_regular", "replaced while it was opened")


def test_a_link_put_there_between_check_and_open(claim, work, monkeypatch, tmp_path):
    real = os.open

    def swapping(path, flags, *args):
        claim.rename(tmp_path / "moved")
        claim.symlink_to(tmp_path / "moved")
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", swapping)
    assert problem_of(claim, work) == ("not_regular", "a symbolic link")


def test_a_second_name_given_between_check_and_open(claim, work, monkeypatch, tmp_path):
    real = os.open

    def linking(path, flags, *args):
        if path == claim:
            (tmp_path / "second").hardlink_to(claim)
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", linking)
    assert problem_of(claim, work) == ("not_regular", "2 names")


def test_what_is_no_regular_file(claim, work, tmp_path):
    (tmp_path / "link").symlink_to(claim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    found = {
        name: problem_of(tmp_path / name, work) for name in ("link", "dangling", "fifo", "folder", "socket")
    }
    assert found == {
        "link": ("not_regular", "a symbolic link"),
        "dangling": ("not_regular", "a symbolic link"),
        "fifo": ("not_regular", "a fifo"),
        "folder": ("not_regular", "a folder"),
        "socket": ("not_regular", "a socket"),
    }
    assert problem_of(tmp_path / "absent", work) == ("unreadable", "No such file or directory")


def test_hard_links(claim, work, tmp_path):
    (tmp_path / "second").hardlink_to(claim)
    assert problem_of(claim, work) == ("not_regular", "2 names")


def test_an_unreadable_file(claim, work, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert problem_of(claim, work) == ("unreadable", "Permission denied")
