import os

from experience import folders
from experience.folders import FolderSizes, entries, remove, subfolders, tree_bytes


def test_a_missing_folder_is_empty(tmp_path):
    assert entries(tmp_path / "none") == []
    assert subfolders(tmp_path / "none") == []
    assert tree_bytes(tmp_path / "none") == 0
    assert remove(tmp_path / "none")


def test_links_are_neither_folders_nor_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"12345")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "real")
    assert subfolders(tmp_path / "tree") == []
    assert subfolders(tmp_path) == [tmp_path / "real", tmp_path / "tree"]
    assert tree_bytes(tmp_path / "real") == 5
    assert remove(tmp_path / "tree" / "link")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "real")
    assert remove(tmp_path / "tree")
    assert (tmp_path / "real" / "file").exists()


def test_removes_trees_of_every_kind_of_file(tmp_path):
    tree = tmp_path / "tree"
    for folder in ("a/b/c", "a/d", "e"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "file\n\udcff").write_bytes(b"x")
        os.mkfifo(tree / folder / "fifo")
    assert remove(tree)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_swapped_for_a_link_meanwhile_is_not_emptied(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"x")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    real = folders._clear

    def swap(folder, top):
        found = real(folder, top)
        (tree / "inner").rmdir()
        (tree / "inner").symlink_to(victim)
        return found

    monkeypatch.setattr(folders, "_clear", swap)
    assert not remove(tree)
    assert (victim / "file").exists()


def test_a_sparse_file_counts_what_it_takes(tmp_path):
    """A terabyte that takes nothing must not push everything else out of the quarantine."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "file").write_bytes(b"12345")
    assert tree_bytes(tmp_path / "sparse") < 2**20
    assert tree_bytes(tmp_path) < 2**20


def test_a_folder_that_takes_long_to_read_is_not_read_at_every_change(tmp_path, monkeypatch):
    now = [100.0]
    sizes = FolderSizes(clock=lambda: now[0])
    (tmp_path / "a").write_bytes(b"1")
    assert sizes.measure(tmp_path) == 1
    (tmp_path / "b").write_bytes(b"2")
    assert sizes.measure(tmp_path) == 2
    monkeypatch.setattr(folders, "_QUICK_S", -1.0)  # now every folder does
    monkeypatch.setattr(folders, "_PAUSE", 1e9)
    (tmp_path / "c").write_bytes(b"3")
    assert sizes.measure(tmp_path) == 3
    (tmp_path / "d").write_bytes(b"4")
    assert sizes.measure(tmp_path) == 3
    now[0] = 1e12
    assert sizes.measure(tmp_path) == 4
