"""What the archive knows and a state restored from an older backup does not is learned again, once."""

import shutil

import pytest
from archive_tools import compact_all, expected, learn, reader

from experience import unpublished
from policies.store import CheckpointStore

POLICY = '[policy]\nobservation_shape = [3]\naction = { kind = "discrete", n = 2 }\n'


def all_learned(site):
    """Each episode is in one ledger, and stands once in the archive."""
    store, archive = CheckpointStore(site.state), reader(site)
    learned = [e.key.episode_id for info in store.versions() for e in store.episodes(info.version)]
    rows = [e.episode_id for version in archive.versions() for e in archive.episodes(version)]
    assert sorted(rows) == sorted(learned)
    assert store.head().counters["episodes"] == len(learned)
    return sorted(learned)


def older_state(site, drop):
    """Learn four versions, of which the third is compacted; put the state after the second back."""
    learn(site, drop, 3, 2)
    shutil.copytree(site.state, site.folder / "backup")
    learn(site, drop, 4)
    compact_all(site)
    learn(site, drop, 2)
    shutil.rmtree(site.state)
    (site.folder / "backup").rename(site.state)


def test_what_an_older_state_lacks_is_learned_again(site, drop):
    older_state(site, drop)
    assert site.run_here() == 0
    assert all_learned(site) == expected(11)
    assert sorted(site.archived_ids()) == expected(11)
    assert "a backup was restored" in str(site.status()["alarms"])
    assert site.run_here() == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    "patch",
    [
        "import experience.unpublished as u; u.leave_out = lambda *a: os._exit(77)",
        "Spool.archive = lambda *a, **k: os._exit(77)",
        "Spool.finish = lambda *a, **k: os._exit(77)",
    ],
    ids=["while it is set apart", "between publish and archive", "between archive and removal"],
)
def test_a_crash_meanwhile_learns_nothing_twice(site, drop, patch):
    older_state(site, drop)
    site.run_and_crash(patch)
    assert site.run_here() in (0, 9)
    assert all_learned(site) == expected(11)


def test_beside_the_archive_of_another_policy_nothing_is_touched(site, drop):
    learn(site, drop, 3, 2, 2)
    files = [path.read_bytes() for path in site.files("archive")]
    shutil.rmtree(site.state)
    site.configure(POLICY)
    assert site.run_here() == 9
    assert site.run_here() == 9
    assert site.current() == 1
    assert [path.read_bytes() for path in site.files("archive")] == files


def test_what_is_set_apart_is_no_version_any_more(site, drop):
    learn(site, drop, 2, 1)
    compact_all(site)
    root = site.folder / "spool" / "archive"
    (path,) = site.files("archive")
    assert unpublished.above(root, 2) == []
    assert unpublished.above(root, 1) == [path]
    assert unpublished.set_apart(root, 1) == 1
    assert unpublished.set_apart(root, 1) == 0
    (waiting,) = unpublished.waiting(root)
    assert reader(site).versions() == [1]
    assert waiting.name.startswith("again-00000002-")
    assert unpublished.set_apart(root, 0) == 1
    assert [path.name[:14] for path in unpublished.waiting(root)] == ["again-00000001", "again-00000002"]
