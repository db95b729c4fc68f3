"""What a power cut may leave: the campaign's own arithmetic, on a disk of a few sectors."""

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from power.cuts import Cut, choose, images, survivors
from power.tape import FLUSH, MARK, WRITE, Event, encode, read_tape

SECTOR = 512


def write(offset, letter, sectors=1):
    return Event(kind=WRITE, offset=offset * SECTOR, data=letter * SECTOR * sectors)


FLUSHED = Event(kind=FLUSH, offset=0, data=b"")
MARKED = Event(kind=MARK, offset=0, data=b'{"what": "x"}')
TAPE = [write(0, b"a"), MARKED, FLUSHED, write(0, b"b", 4), MARKED, write(1, b"c"), FLUSHED, write(2, b"d")]


def letters(path):
    data = path.read_bytes()
    return b"".join(data[at : at + 1] for at in range(0, len(data), SECTOR))


@pytest.fixture
def left(tmp_path):
    """What each cut leaves of a disk of four sectors."""

    def build(*cuts):
        start = tmp_path / "start.img"
        start.write_bytes(b"." * SECTOR * 4)
        return [
            letters(image) for _, image in images(TAPE, cuts, start, sector_bytes=SECTOR, whole_bytes=SECTOR)
        ]

    return build


def test_what_was_flushed_stays_and_the_rest_may_go(left):
    places = (0, 2, 3, 5, 6, 7, 8)
    assert left(*(Cut(at=at, kind="none", seed=0) for at in places)) == [
        *(b"....",) * 2,
        *(b"a...",) * 3,
        *(b"bcbb",) * 2,
    ]


def test_a_prefix_is_what_was_written(left):
    places = (1, 4, 6, 8)
    cuts = [Cut(at=at, kind="prefix", seed=0) for at in places]
    assert left(*cuts) == [b"a...", b"bbbb", b"bcbb", b"bcdb"]


def test_a_torn_write_keeps_whole_sectors_only():
    pending = [write(0, b"x"), write(1, b"y", 3)]
    seen = set()
    for seed in range(40):
        kept = survivors(pending, Cut(at=0, kind="torn", seed=seed), SECTOR)
        assert kept[0] == pending[0]
        assert all(event.data == b"y" * SECTOR for event in kept[1:])
        seen.add(tuple(event.offset // SECTOR for event in kept[1:]))
    assert {(), (1, 2, 3)} < seen


def test_the_beginning_of_the_disk_is_not_torn():
    pending = [write(0, b"x", 12)]
    for seed in range(20):
        kept = survivors(pending, Cut(at=0, kind="sectors", seed=seed), SECTOR, 8 * SECTOR)
        assert all(event.offset >= 8 * SECTOR for event in kept if len(event.data) == SECTOR)
        assert all(len(event.data) == 8 * SECTOR for event in kept if event.offset == 0)


def test_subsets_keep_the_order_of_writes_and_differ():
    pending = [write(at, b"z") for at in range(6)]
    kept = [survivors(pending, Cut(at=0, kind="writes", seed=seed), SECTOR) for seed in range(20)]
    assert all(events == sorted(events, key=lambda event: event.offset) for events in kept)
    assert len({len(events) for events in kept}) > 2


def test_cuts_come_in_order_and_cover_every_kind_behind_marks_and_before_flushes():
    cuts = choose(TAPE, 60, Random(1))
    assert [cut.at for cut in cuts] == sorted(cut.at for cut in cuts)
    assert {cut.kind for cut in cuts} == {"none", "prefix", "writes", "sectors", "torn"}
    assert {2, 5, 6} <= {cut.at for cut in cuts}
    assert cuts == choose(TAPE, 60, Random(1))


def test_a_tape_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "tape"
    path.write_bytes(b"".join(encode(event.kind, event.offset, event.data) for event in TAPE))
    assert read_tape(path) == TAPE
