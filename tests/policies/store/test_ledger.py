import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from store_tools import entries, entry

from experience.episode import EpisodeKey
from policies.checkpoint import LedgerEntry
from policies.errors import VersionDamaged, VersionPruned
from policies.ledger import Ledger, Lineage, ids_of
from policies.ledger_file import FEW_ROWS, decode_entries, decode_ids, encode_entries

LONG = Lineage(head=9, skipped=((3, 4), (7, 7)))


def test_a_lineage_leaves_out_what_was_skipped():
    assert [version for version in range(12) if version in LONG] == [1, 2, 5, 6, 8, 9]
    for first in range(1, 12):
        assert LONG.numbers(first) == {version for version in range(first, 12) if version in LONG}
    assert Lineage.of(None).numbers(1) == set()


def test_a_skipped_range_as_wide_as_all_numbers_costs_nothing():
    wide = Lineage(head=90_000_001, skipped=((3, 90_000_000),))
    assert wide.numbers(1) == {1, 2, 90_000_001}
    assert 50_000_000 not in wide


class Versions:
    """What each version added, as the ledger reads it."""

    def __init__(self, **added):
        self.added = {int(name[1:]): added[name] for name in added}
        self.reads = []

    def __call__(self, version):
        self.reads.append(version)
        if isinstance(self.added[version], Exception):
            raise self.added[version]
        return ids_of(entries(*self.added[version]))


def found(ledger, lineage, *names):
    return {key.episode_id: hit.version for key, hit in ledger.lookup(keys(*names), lineage).items()}


def keys(*names):
    return [entry(name).key for name in names]


def test_the_union_follows_the_lineage_forth_and_back(tmp_path):
    versions = Versions(v1="a", v2="b", v3="c", v4="b")
    ledger = Ledger(tmp_path, versions)
    assert found(ledger, Lineage(head=3), *"abcd") == {"a": 1, "b": 2, "c": 3}
    assert found(ledger, Lineage(head=1), *"abcd") == {"a": 1}
    branch = Lineage(head=4, skipped=((2, 3),))
    assert found(ledger, branch, *"abcd") == {"a": 1, "b": 4}
    assert found(ledger, Lineage(head=4, skipped=((3, 3),)), *"ac") == {"a": 1}


def test_each_version_is_read_once(tmp_path):
    versions = Versions(v1="a", v2="b", v3="c")
    ledger = Ledger(tmp_path, versions)
    for head in (1, 2, 2, 3, 3):
        ledger.lookup(keys("a"), Lineage(head=head))
    assert versions.reads == [1, 2, 3]
    ledger.add(4, entries("d"))
    assert found(ledger, Lineage(head=4), *"ad") == {"a": 1, "d": 4}
    assert versions.reads == [1, 2, 3]


def test_compacted_ids_are_found_by_their_lineage_alone(tmp_path):
    Ledger(tmp_path, Versions(v1="a", v2="b", v3="c")).compact(3, Lineage(head=3))
    nothing = Ledger(tmp_path, Versions(v4="d"))
    assert found(nothing, Lineage(head=4), *"abcd") == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert found(nothing, Lineage(head=4, skipped=((2, 3),)), *"abcd") == {"a": 1, "d": 4}
    assert found(nothing, Lineage(head=1), *"abcd") == {"a": 1}


def test_a_version_compacted_while_it_is_read_is_found_in_its_run(tmp_path):
    class Racing(Versions):
        def __call__(self, version):
            Ledger(tmp_path, Versions(v1="a", v2="b")).compact(2, Lineage(head=2))
            raise VersionPruned(version=version) if version <= 2 else AssertionError(version)

    ledger = Ledger(tmp_path, Racing(v1="a", v2="b", v3="c"))
    ledger.add(3, entries("c"))
    assert found(ledger, Lineage(head=3), *"abc") == {"a": 1, "b": 2, "c": 3}
    assert ledger.unreadable == set()


@pytest.mark.parametrize("error", [VersionPruned(version=2), VersionDamaged(version=2, file="x", reason="y")])
def test_ids_that_cannot_be_read_are_noted(tmp_path, error):
    ledger = Ledger(tmp_path, Versions(v1="a", v2=error, v3="c"))
    assert found(ledger, Lineage(head=3), *"abc") == {"a": 1, "c": 3}
    assert ledger.unreadable == {2}


def test_entries_round_trip_in_order():
    rows = [
        LedgerEntry(
            key=EpisodeKey("klient-é", f"{i}", i, "agent"),
            row_sha256="ab" * 32,
            source_name="x.npz",
            source_sha256="cd" * 32,
            policy_version=None if i == 1 else i,
            n_steps=i,
            total_reward=0.1 * i,
            ingested_at=1.5e9 + i,
            update=i // 2,
        )
        for i in (2, 0, 1)
    ]
    data = encode_entries(rows)
    assert decode_entries(data) == rows
    assert [key for key, _ in decode_ids(data)] == [row.key.digest() for row in rows]
    assert decode_entries(encode_entries([])) == []
    many = [replace(rows[i % 3], key=EpisodeKey("", f"{i}", 0, "")) for i in range(FEW_ROWS + 1)]
    for count in (FEW_ROWS, FEW_ROWS + 1):
        assert decode_entries(encode_entries(many[:count])) == many[:count]


def test_numbers_from_numpy_are_taken(tmp_path):
    row = LedgerEntry(key=EpisodeKey("", "e", 0, ""), row_sha256="0" * 64, total_reward=np.float64(2.5))
    assert decode_entries(encode_entries([row])) == [row]


READS = """
import os
from policies.checkpoint import LedgerEntry
from policies.ledger_file import decode_entries, decode_ids, encode_entries
from experience.episode import EpisodeKey
entry = LedgerEntry(
    key=EpisodeKey("bot", "e", 0, ""), row_sha256="a", source_name="a.npz", source_sha256="b", claim_id="c",
    policy_version=1, n_steps=2, total_reward=3.0, ingested_at=4.0, update=1,
)
data = encode_entries([entry])
before = len(os.listdir("/proc/self/task"))
assert decode_entries(data) == [entry]
assert len(list(decode_ids(data))) == 1
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_reading_a_ledger_leaves_no_thread_behind():
    """Such a thread held the bytes, and at exit it sometimes aborted a command whose work was done."""
    done = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
