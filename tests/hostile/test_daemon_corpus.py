"""The corpus through a real daemon process, with good files between."""

import time

import pytest
from arena import Arena, complain_of_neighbors
from corpus import CANARY, generate
from judge import daemon_complaints


@pytest.mark.timeout(600)
def test_every_file_gets_its_verdict_and_every_neighbor_is_learned(tmp_path):
    arena = Arena(tmp_path)
    cases = generate(tmp_path / "spool", now=time.time())
    neighbors = [arena.good(f"neighbor-{i}") for i in range(20)]
    status = arena.until_idle(timeout_s=500)
    assert status == 0, arena.log()[-4000:]
    complaints = daemon_complaints(cases, arena.records(), arena.learned())
    complaints += complain_of_neighbors(arena, neighbors)
    assert complaints == []
    assert arena.left() == []
    assert arena.finite()
    assert not (tmp_path / "spool" / CANARY).exists()
    assert "Traceback" not in arena.log()
    print({name: f"{size >> 20} MiB" for name, size in arena.peaks.items()})
