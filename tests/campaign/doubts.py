"""What the disk may not have after fsyncs that failed, held against everything that relies on it.

The model is the strict one: a failed fsync means that what was written since the last good one is lost,
whatever can be read, until it is written again. For a folder "written" means its names; any later change of
the folder and a good fsync after it makes them durable, as in a journaling file system.
"""

import os
import stat
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECOVERED = {"CURRENT", "status.json", "merge.json", "clock.json", "returns.json"}
"""Names in the state folder that are written anew or repaired: nothing relies on their durability."""
REPEATED = ("in", "work", "claimed", "quarantine")
"""Folders of the spool whose changes are done again when a power cut undoes them: claims, and their moves."""
ID_CHARACTERS = 36


@dataclass(kw_only=True)
class FolderDoubt:
    """A folder whose fsync failed.

    Attributes:
        path: where it is.
        names: changed since its last good fsync.
        changed: whether it was changed again after the failure.
    """

    path: str
    names: list[str]
    changed: bool = False


@dataclass(kw_only=True)
class Doubts:
    """Watches the calls of one life of a daemon; see ``Injector``'s ``watcher``.

    Attributes:
        files: inode -> path, of files whose data are in doubt.
        folders: path -> doubt.
        synced_bytes: inode -> size at its last good fsync.
        broken: one line for each time that something relied on what was in doubt.
        failed: how many fsyncs failed.
        recovering: whether the main thread lets go of what an earlier life had published.
    """

    files: dict[int, str] = field(default_factory=dict)
    folders: dict[str, FolderDoubt] = field(default_factory=dict)
    synced_bytes: dict[int, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    failed: int = 0
    recovering: bool = False
    _dirty: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Doubts":
        """What an earlier life left behind."""
        return cls(
            files={int(inode): path for inode, path in document.get("files", {}).items()},
            folders={path: FolderDoubt(**doubt) for path, doubt in document.get("folders", {}).items()},
            synced_bytes={int(inode): size for inode, size in document.get("synced_bytes", {}).items()},
        )

    def to_json(self) -> dict[str, Any]:
        """What the next life has to know."""
        folders = {path: asdict(doubt) for path, doubt in self.folders.items()}
        return {"files": self.files, "folders": folders, "synced_bytes": self.synced_bytes}

    def __call__(self, name: str, args: tuple, error: OSError | None, call):
        if name == "fsync":
            self._fsync(args[0], error)
        if error is not None:
            raise error
        if name == "open" and Path(args[0]).exists():
            return call()  # no new name
        if name in ("write", "ftruncate"):
            if name == "write":
                self.files.pop(os.fstat(args[0]).st_ino, None)
            return call()
        result = self._visible(name, args, call) if name in ("rename", "replace") else call()
        if name != "fsync":
            self._changed(name, args)
        return result

    def published(self) -> None:
        """A version was acknowledged to its writer."""
        for doubt in self.folders.values():
            if Path(doubt.path).name == "checkpoints" and doubt.names:
                self.broken.append(f"acknowledged while {doubt.names} in {doubt.path} were in doubt")

    def _fsync(self, descriptor: int, error: OSError | None) -> None:
        status = os.fstat(descriptor)
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        is_folder = stat.S_ISDIR(status.st_mode)
        if error is not None:
            self.failed += 1
            if is_folder:
                names = self._dirty.get(path, set()) | set(self._names(path))
                self.folders[path] = FolderDoubt(path=path, names=sorted(filter(_counts, names)))
            else:
                self.files[status.st_ino] = path
            return
        if is_folder:
            doubt = self.folders.pop(path, None)
            if doubt is not None and not doubt.changed and doubt.names and not self._is_repeated(path):
                self.broken.append(f"fsync of {path} repeated on the same names: {doubt.names}")
            self._dirty.pop(path, None)
            return
        if status.st_ino in self.files:
            self.broken.append(f"fsync of {path} repeated on the same data")
        self.synced_bytes[status.st_ino] = status.st_size

    def _names(self, path: str) -> list[str]:
        return self.folders[path].names if path in self.folders else []

    def _visible(self, name: str, args: tuple, call):
        source, target = (os.fspath(path) for path in args[:2])
        inodes = {os.lstat(source).st_ino}
        if Path(source).is_dir():
            inodes |= {entry.stat(follow_symlinks=False).st_ino for entry in os.scandir(source)}
        if not Path(target).name.startswith(".") and inodes & self.files.keys():
            self.broken.append(f"{name} onto {target}, whose data are in doubt")
        if Path(source).parent != Path(target).parent:
            self._let_go(source)
        return call()

    def _changed(self, name: str, args: tuple) -> None:
        for path in args[: 2 if name in ("rename", "replace", "link") else 1]:
            if not isinstance(path, str | os.PathLike):
                continue
            self._name_changed(name, Path(path))

    def _name_changed(self, name: str, path: Path) -> None:
        if name == "unlink":
            self._let_go(str(path))
        if name == "rmdir":
            self.folders.pop(str(path), None)
        folder = str(path.parent)
        self._dirty.setdefault(folder, set()).add(path.name)
        doubt = self.folders.get(folder)
        if doubt is None:
            return
        doubt.changed = True
        if name in ("unlink", "rmdir") and path.name in doubt.names:
            doubt.names.remove(path.name)

    def _let_go(self, path: str) -> None:
        """A claim goes: whatever became of its episodes must be durable by now."""
        claim = Path(path)
        if claim.parent.parent.name != "claimed" or claim.name.startswith("."):
            return
        for inode, name in self.files.items():
            there = Path(name).exists() and os.lstat(name).st_ino == inode
            if (
                there
                and self._is_named(claim, Path(name))
                and self._relies_on(claim, Path(name).parent, Path(name).name)
            ):
                self.broken.append(f"{path} let go while the data of {name} are in doubt")
        for doubt in self.folders.values():
            names = [name for name in doubt.names if self._relies_on(claim, Path(doubt.path), name)]
            if names:
                self.broken.append(f"{path} let go while {names} in {doubt.path} are in doubt")

    def _is_named(self, claim: Path, file: Path) -> bool:
        """Whether a log's lines in doubt tell of this claim; any other file is in doubt as a whole."""
        if file.suffix != ".jsonl":
            return True
        lines = file.read_bytes()[self.synced_bytes.get(file.stat().st_ino, 0) :]
        return claim.name[:ID_CHARACTERS].encode() in lines

    def _relies_on(self, claim: Path, folder: Path, name: str) -> bool:
        """Whether this claim may only go when that file is durable."""
        if not _counts(name) or any(part.startswith(".tmp-") for part in folder.parts):
            return False
        if self._is_repeated(str(folder)):
            return False
        if folder.parent.name == "refused":
            return name.startswith(claim.name[:ID_CHARACTERS])
        if folder.name == "state" or folder.parent.name == "spool":
            return True  # verdicts, and the folders above everything
        return self.recovering or threading.current_thread().name.startswith("trainer")

    def _is_repeated(self, path: str) -> bool:
        folder = Path(path)
        return folder.name in REPEATED or folder.parent.name in REPEATED


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in RECOVERED
