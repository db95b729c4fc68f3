"""Gauges: what a daemon's process takes, once a second, whether it grows; which versions came and went."""

import contextlib
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

WARM_S, WARM_SHARE = 300.0, 0.2
"""Of a life this much is warming up, whichever is less: caches fill, as that of versions that acted."""
MIN_SAMPLES = 10


class Gauges:
    """Memory and file descriptors of each life of the daemon."""

    def __init__(self) -> None:
        self._lives: dict[int, list[tuple[float, int, int]]] = {}
        self._next_s = 0.0

    def sample(self, pid: int) -> None:
        """Look once a second; cheap to call more often."""
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + 1.0
        with contextlib.suppress(OSError, ValueError, StopIteration):
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self._lives.setdefault(pid, []).append((now, own_memory(pid), descriptors))

    def figures(self) -> dict:
        """Of the longest life: seconds; memory early, late, by tenths, and its slope; descriptors."""
        life = np.array(max(self._lives.values(), key=len, default=[]), dtype=float).reshape(-1, 3)
        if len(life) < MIN_SAMPLES:
            return {"seconds": 0.0}
        elapsed = life[:, 0] - life[0, 0]
        life = life[elapsed >= min(WARM_S, WARM_SHARE * elapsed[-1])]
        third = max(1, len(life) // 3)
        mib = life[:, 1] / 2**20
        hours = (life[:, 0] - life[0, 0]) / 3600.0
        return {
            "seconds": round(float(elapsed[-1])),
            "first_mib": round(float(np.median(mib[:third])), 1),
            "last_mib": round(float(np.median(mib[-third:])), 1),
            "most_mib": round(float(mib.max()), 1),
            "tenths_mib": [round(float(np.median(part)), 1) for part in np.array_split(mib, 10)],
            "slope_mib_per_hour": round(float(np.polyfit(hours, mib, 1)[0]), 1),
            "fds_first": int(np.median(life[:third, 2])),
            "fds_last": int(np.median(life[-third:, 2])),
        }


def own_memory(pid: int) -> int:
    """Bytes that a process holds for itself: mapped files, such as the ledger, the kernel may drop."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


class Versions:
    """What each version added, read as it appears: most are pruned long before the end.

    Args:
        state: the store's folder.

    Attributes:
        keys: how often each (client_id, episode_id, segment) was added, by the writer's name.
        wrong: what is not as it must be.
        newest: the highest number that was seen.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / "checkpoints"
        self.keys: dict[str, Counter] = {}
        self.wrong: list[str] = []
        self.newest = 0

    def look(self) -> None:
        """Read what came since the last time."""
        names = sorted(path.name for path in self._folder.glob("[0-9]*")) if self._folder.exists() else []
        for name in names:
            if int(name) > self.newest:
                if int(name) != self.newest + 1:
                    self.wrong.append(f"after version {self.newest} came {name}")
                self._read(int(name), self._folder / name / "manifest.json")
                self.newest = int(name)

    def _read(self, number: int, path: Path) -> None:
        try:
            manifest = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            self.wrong.append(f"version {number} became visible without its manifest: {error}")
            return
        parents = manifest["parents"]
        if parents[:1] != [number - 1][: number - 1] or parents != sorted(set(parents), reverse=True):
            self.wrong.append(f"version {number} has parents {manifest['parents']}")
        added = self.keys.setdefault(manifest["writer"], Counter())
        added.update(tuple(key[:3]) for key in manifest["keys"])

    def added(self) -> Counter:
        """How often each key was added, by whomever."""
        return sum(self.keys.values(), Counter())
