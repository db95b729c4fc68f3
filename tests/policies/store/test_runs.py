import random

import pytest

from policies.errors import LedgerDamaged
from policies.runs import MOST_RUNS, IdRecord, Runs


def record(number, version=1):
    key = random.Random(number).randbytes(16)
    return IdRecord(key, bytes([number % 256]) * 16, version)


def found(runs, *records):
    return set(runs.find([r.key for r in records]))


def test_ids_are_found_again_by_another_reader(tmp_path):
    mine = [record(i, 1 + i % 5) for i in range(1000)]
    Runs(tmp_path / "ledger").add(1, 5, mine)
    runs = Runs(tmp_path / "ledger")
    runs.refresh()
    assert found(runs, *mine) == set(mine)
    assert found(runs, record(5000)) == set()
    assert runs.compacted_through == runs.highest_on_disk() == 5


def test_keys_that_share_their_first_eight_bytes_are_told_apart(tmp_path):
    mine = [IdRecord(b"12345678" + bytes([i]) * 8, bytes(16), 1) for i in range(4)]
    runs = Runs(tmp_path)
    runs.add(1, 1, mine[:3])
    assert found(runs, *mine) == set(mine[:3])


def test_an_empty_run_tells_which_numbers_were_used(tmp_path):
    runs = Runs(tmp_path)
    runs.add(1, 9, [])
    assert runs.compacted_through == 9
    assert found(runs, record(1)) == set()


def test_joining_keeps_every_id_and_few_files(tmp_path):
    runs, other, everything = Runs(tmp_path), Runs(tmp_path), []
    for version in range(1, 60):
        mine = [record(1000 * version + i, version) for i in range(version % 7)]
        everything += mine
        runs.add(version, version, mine)
        runs.join()
        assert len(list(tmp_path.iterdir())) <= MOST_RUNS
    other.refresh()
    assert found(other, *everything) == set(everything)
    assert other.compacted_through == 59


def test_a_join_cut_short_is_finished_and_forgets_nothing(tmp_path):
    runs = Runs(tmp_path)
    inside, around = [record(1, 3), record(2, 3)], [record(2, 3), record(4, 1)]
    runs.add(3, 4, inside)
    runs.add(1, 6, around)
    runs.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001-00000006.ids"]
    assert found(runs, *inside, *around) == {*inside, *around}
    assert runs.find([inside[1].key]) == [inside[1]]


def test_a_reader_follows_a_run_that_is_replaced_under_its_name(tmp_path):
    runs, reader = Runs(tmp_path), Runs(tmp_path)
    runs.add(1, 6, [record(1)])
    reader.refresh()
    runs.add(2, 3, [record(2)])
    runs.sweep()
    reader.refresh()
    assert found(reader, record(1), record(2)) == {record(1), record(2)}


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    Runs(tmp_path).add(1, 2, [record(1), record(2)])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    broken = [whole[:i] for i in range(len(whole))]
    broken += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(LedgerDamaged, match=path.name):
            Runs(tmp_path).refresh()


def test_a_run_under_another_name_is_noticed(tmp_path):
    Runs(tmp_path).add(1, 2, [record(1)])
    (tmp_path / "00000001-00000002.ids").rename(tmp_path / "00000001-00000009.ids")
    with pytest.raises(LedgerDamaged, match="00000001-00000002"):
        Runs(tmp_path).refresh()
