"""The corpus through the real decoder process: nothing ends it, and each file gets its verdict."""

import time

import pytest
from corpus import CANARY, generate
from judge import decoder_complaint

from experience.decoder import DEFAULT_ADDRESS_SPACE_BYTES, DecodeJob, Decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def cases(folder):
    return generate(folder, now=time.time())


def jobs(folder, cases):
    (folder / "work").mkdir()
    return [
        DecodeJob(
            claim_path=str(folder / "in" / case.name),
            work_path=str(folder / "work" / str(i)),
            name=case.name,
            ingested_at=1.0,
        )
        for i, case in enumerate(cases)
    ]


def peak_address_space(pid):
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123 - a line of /proc
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmPeak"))


def test_every_file_gets_its_verdict_from_one_process(folder, cases):
    complaints, pids = [], set()
    with Decoder() as decoder:
        for case, result in zip(cases, decoder.decode(jobs(folder, cases)), strict=True):
            complaint = decoder_complaint(case, result)
            complaints += [complaint] if complaint else []
            pids.add(decoder.pid)
        peak = peak_address_space(decoder.pid)
    assert complaints == []
    assert len(pids) == 1
    assert peak <= DEFAULT_ADDRESS_SPACE_BYTES
    assert not (folder / CANARY).exists()
    assert not list(folder.rglob("escape*"))
