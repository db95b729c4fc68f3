"""A part of all truncations and single-bit flips; the campaign does every one."""

import itertools

import pytest
from corpus import SMALL, damaged
from damage_oracle import feed

from experience.decoder import Decoder

STRIDE = {".npz": 29, ".jsonl": 7, ".parquet": 29, ".arrow": 61}


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


@pytest.mark.parametrize("extension", SMALL)
def test_damaged_files(decoder, tmp_path, extension):
    good = SMALL[extension](1.8e9)
    some = itertools.islice(damaged(good), 0, None, STRIDE[extension])
    tally = feed(decoder, tmp_path, extension, good, damaged=some)
    assert tally.violations == []
    assert sum(tally.verdicts.values()) > 300
