"""Files that end the decoder process: quarantined after three attempts, the rest goes on."""

from collections import Counter

from arena import Arena, complain_of_neighbors, killer_environment

HOWS = ("segv", "kill", "exit")


def test_a_file_that_kills_its_decoder_is_quarantined_after_three_attempts(tmp_path):
    arena = Arena(tmp_path, environment=killer_environment(tmp_path))
    neighbors = []
    for how in HOWS:
        neighbors.append(arena.good(f"before-{how}"))
        arena.good(f"kill-{how}")
        neighbors.append(arena.good(f"after-{how}"))
    assert arena.until_idle() == 0, arena.log()[-4000:]
    assert complain_of_neighbors(arena, neighbors) == []
    found = {record["name"]: (record["verdict"], record["reason"]) for record in arena.records()}
    assert found == {f"kill-{how}.npz": ("quarantined", "decoder_died") for how in HOWS}
    deaths = Counter((tmp_path / "deaths").read_text().split())
    assert deaths == dict.fromkeys(HOWS, 3)
    assert arena.left() == []
