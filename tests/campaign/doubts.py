"""What the disk may not have after fsyncs that failed, held against everything that relies on it.

The model is the strict one: a failed fsync means that what was written since the last good one is lost,
whatever can be read, until it is written again. For a folder "written" means its names; any later change of
the folder and a good fsync after it makes them durable, as in a journaling file system.
"""

import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECOVERED = {"CURRENT", "status.json", "merge.json", "clock.json"}
"""Names in the state folder that the next start writes or repairs: nothing relies on their durability."""
REPEATED = ("in", "work", "claimed", "quarantine")
"""Folders of the spool whose changes are done again when a power cut undoes them: claims, and their moves."""


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
        broken: one line for each time that something relied on what was in doubt.
        failed: how many fsyncs failed.
    """

    files: dict[int, str] = field(default_factory=dict)
    folders: dict[str, FolderDoubt] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    failed: int = 0
    _dirty: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Doubts":
        """What an earlier life left behind."""
        folders = {path: FolderDoubt(**doubt) for path, doubt in document.get("folders", {}).items()}
        return cls(files={int(n): path for n, path in document.get("files", {}).items()}, folders=folders)

    def to_json(self) -> dict[str, Any]:
        return {"files": self.files, "folders": {path: asdict(doubt) for path, doubt in self.folders.items()}}

    def __call__(self, name: str, args: tuple, error: OSError | None, call):
        if name == "fsync":
            self._fsync(args[0], error)
        if error is not None:
            raise error
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
        elif status.st_ino in self.files:
            self.broken.append(f"fsync of {path} repeated on the same data")

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
        if name == "open" and path.name in self._dirty.get(folder, ()):
            return
        self._dirty.setdefault(folder, set()).add(path.name)
        doubt = self.folders.get(folder)
        if doubt is None:
            return
        doubt.changed = True
        if name in ("unlink", "rmdir") and path.name in doubt.names:
            doubt.names.remove(path.name)

    def _let_go(self, path: str) -> None:
        """A claim goes: whatever became of its episodes must be durable by now."""
        if Path(path).parent.parent.name != "claimed" or Path(path).name.startswith("."):
            return
        for inode, name in self.files.items():
            if Path(name).exists() and os.lstat(name).st_ino == inode and _counts(Path(name).name):
                self.broken.append(f"{path} let go while the data of {name} are in doubt")
        for doubt in self.folders.values():
            if not self._is_repeated(doubt.path) and doubt.names:
                self.broken.append(f"{path} let go while {doubt.names} in {doubt.path} are in doubt")

    def _is_repeated(self, path: str) -> bool:
        folder = Path(path)
        return folder.name in REPEATED or folder.parent.name in REPEATED


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in RECOVERED
