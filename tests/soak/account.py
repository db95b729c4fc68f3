"""The account at the end: what clients wrote, against everything that is on the disk."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "hostile")]

import journal  # noqa: E402 - the path comes first
from judge import is_name, matches  # noqa: E402

from experience.archive import read_shard  # noqa: E402
from experience.episode import EpisodeKey  # noqa: E402
from policies.store import CheckpointStore  # noqa: E402

SHOWN = 10


class Account:
    """Holds one site against the journals of its clients.

    Args:
        spool, state: of a daemon that has come to its end, idle.
        journals: the folder of journals.
        status: what ``learnerd status --json`` says.
        added: how often each key was added by any version, as it was seen when versions appeared.
        by_daemon: the same, by versions that the daemon wrote.
    """

    def __init__(
        self, spool: Path, state: Path, journals: Path, *, status: dict, added: Counter, by_daemon: Counter
    ) -> None:
        self._spool, self._state = spool, state
        self._added, self._by_daemon = added, by_daemon
        lines = list(journal.read(journals))
        self._files = [line for line in lines if "file" in line]
        self._intended = {journal.key_of(key) for line in lines for key in line.get("intended", ())}
        self._saved = {journal.key_of(key) for line in lines for key in line.get("saved", ())}
        self._good = [journal.key_of(key) for line in self._files for key in line["keys"]]
        self._status = status
        self._store = CheckpointStore(state)
        self._records = self._outcomes()

    def figures(self) -> dict:
        """What the account is about, in numbers."""
        return {
            "files": len(self._files),
            "episodes_good": len(self._good),
            "episodes_online": len(self._saved),
            "learned": sum(self._added.values()),
            "refused": self._counts("refused"),
            "quarantined": self._counts("quarantined"),
            "versions": self._store.highest_used(),
        }

    def violations(self) -> list[str]:
        """Everything that is not as it must be; [] when all is well."""
        checks = (self._once, self._ledger, self._verdicts, self._archive, self._versions, self._statuses)
        return [text for check in (*checks, self._left_over) for text in check()]

    def _once(self) -> Iterator[str]:
        """No episode was learned twice, none that nobody deposited, and none of the online learner lost."""
        yield from _some("learned more than once", [key for key, n in self._added.items() if n > 1])
        known = {*self._good, *self._intended}
        yield from _some("learned, but deposited by nobody", self._added.keys() - known)
        yield from _some("saved by the online learner, and lost", self._saved - self._added.keys())
        yield from _some(
            "deposited twice by a client of ours", [k for k, n in Counter(self._good).items() if n > 1]
        )

    def _ledger(self) -> Iterator[str]:
        """The head's ledger is the union of what the versions added."""
        keys = {EpisodeKey(*key, ""): key for key in {*self._good, *self._intended}}
        found = {keys[key] for key in self._store.lookup(keys)}
        yield from _some("added by a version, but not in the head's ledger", self._added.keys() - found)
        yield from _some("in the head's ledger, but added by no version", found - self._added.keys())

    def _verdicts(self) -> Iterator[str]:
        """Each file: its good episodes are learned, and all else of it has exactly the records it must."""
        expected, found = defaultdict(list), defaultdict(list)
        names = {}
        for line in self._files:
            name = line["twin_of"] or line["file"]
            missing = [key for key in line["keys"] if journal.key_of(key) not in self._added]
            if missing and not line["or_records"]:
                yield f"{name}: {len(missing)} of its {len(line['keys'])} good episodes were not learned"
            per_file = (
                len(missing) if any(r.startswith("refused") for r in line["or_records"]) else bool(missing)
            )
            expected[name] += [*line["records"], *(line["or_records"] * per_file)]
            names[_escaped(line["file"])] = name
        strangers = []
        for record in self._records:
            name = names.get(_escaped(record["name"])) or self._shortened(names, record["name"])
            if name is None:
                strangers.append(record["name"])
            else:
                found[name].append(f"{record['verdict']}:{record['reason']}")
        yield from _some("records of files that nobody deposited", strangers)
        for name, wanted in expected.items():
            alternatives = [text.replace("|", f"|{text.partition(':')[0]}:") for text in wanted]
            if not matches(alternatives, found[name]):
                yield f"{name!r}: records {found[name]}, expected {wanted}"

    @staticmethod
    def _shortened(names, found):
        return next((own for name, own in names.items() if is_name(found, name)), None)

    def _archive(self) -> Iterator[str]:
        """What the daemon learned is in the archive, once."""
        rows = Counter(
            (episode.client_id, episode.episode_id, episode.segment)
            for path in (self._spool / "archive").rglob("*.parquet")
            for episode in read_shard(path)
        )
        yield from _some("learned by the daemon, but not archived", (self._by_daemon - rows).keys())
        yield from _some("archived, but not learned by the daemon", (rows - self._by_daemon).keys())

    def _versions(self) -> Iterator[str]:
        """Every file of every version that is kept has its hash; the numbers add up."""
        yield from _some("damaged versions", self._store.damaged(thorough=True))
        head, total = self._store.head(), sum(self._added.values())
        if head is None:
            yield "there is no version"
            return
        if self._store.current() != head.version or self._store.highest_used() != head.version:
            yield f"CURRENT is {self._store.current()}, the head {head.version}"
        if head.counters["episodes"] != total:
            yield f"the head counts {head.counters['episodes']} episodes, its versions added {total}"

    def _statuses(self) -> Iterator[str]:
        """The status file counts what is true."""
        episodes, total = self._status["episodes"], sum(self._added.values())
        if (episodes["learned"], episodes["pending"]) != (total, 0):
            yield f"status: {episodes['learned']} learned, {episodes['pending']} pending; true: {total}, 0"
        for verdict in ("refused", "quarantined"):
            if episodes[verdict] != self._counts(verdict):
                yield f"status: {verdict} {episodes[verdict]}, in truth {self._counts(verdict)}"

    def _left_over(self) -> Iterator[str]:
        """Nothing waits, is claimed, is worked on, or lies aside."""
        for part in ("in", "claimed", "work"):
            left = [
                path.name for path in (self._spool / part).rglob("*") if not path.is_dir() or part == "in"
            ]
            yield from _some(f"left over in {part}", left)
        for folder in (self._spool, self._state):
            left = [str(path.relative_to(folder)) for path in folder.rglob(".tmp-*")]
            yield from _some(f"written aside and left over in {folder.name}", left)

    def _outcomes(self) -> list[dict]:
        path = self._state / "outcomes.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        records = {record["key"]: record for record in map(json.loads, lines)}  # a key counts once
        return list(records.values())

    def _counts(self, verdict: str) -> dict[str, int]:
        return dict(sorted(Counter(r["reason"] for r in self._records if r["verdict"] == verdict).items()))


def _escaped(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _some(what: str, found) -> Iterator[str]:
    found = list(found)
    if found:
        yield f"{what}: {len(found)}, such as {', '.join(map(repr, found[:SHOWN]))}"


def log_violations(path: Path) -> list[str]:
    """Lines of the daemon's log that are no JSON object with an event."""
    bad = []
    for line in path.read_bytes().split(b"\n"):
        try:
            good = not line or "event" in json.loads(line)
        except (ValueError, TypeError):
            good = False
        if not good:
            bad.append(line[:200].decode(errors="replace"))
    return list(_some("lines of the log that are no JSON", bad))
