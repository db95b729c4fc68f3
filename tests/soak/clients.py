"""Clients of the soak, each a process: ``python clients.py KIND --spool … --state … --journal … --seed N``.

The task has three contexts, shown as one of three numbers; in context c action c mod 2 earns 1.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "hostile"), str(FOLDER.parents[1])]

import corpus  # noqa: E402
import numpy as np  # noqa: E402 - the path comes first
from hostile_case import npz  # noqa: E402
from hostile_tables import arrow, columns, parquet  # noqa: E402
from journal import Journal  # noqa: E402

from experience import EpisodeWriter  # noqa: E402
from policies import Actor  # noqa: E402
from policies.errors import NoPolicyYet  # noqa: E402

CONTEXTS = 3
FULL_PAUSE_S = 0.2
DAY_S = 86_400.0
HEAVY = ("60-mb", "million", "many-", "bomb")
"""Parts of names of files that are slow to make or large."""
DEPENDENT = ("same-", "twice-", "version-unknown")
"""Parts of names of cases that a second round, or a thousand versions, would change."""
KILLERS = ("segv", "kill", "abort", "exit", "noise")


class Client:
    """What all have in common.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.spool, self.state = options.spool, options.state
        self.inbox = options.spool / "in"
        self.rng = random.Random(options.seed)
        self.name = options.name
        self.files, self.heavy, self.period_s = options.files, options.heavy, options.period_s
        self.journal = Journal(options.journal / f"{self.name}-{os.getpid()}.jsonl")
        self.stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())

    def deposit(self, name: str, make) -> None:
        """Make a file aside, then rename it into place; a full disk is waited for."""
        aside = self.inbox / f".tmp-{uuid.uuid4().hex}"

        def attempt():
            try:
                make(aside)
                aside.rename(self.inbox / name)
            except OSError:
                _remove(aside)
                raise

        patiently(attempt)

    def header(self, **changes):
        """Of a good episode that ends now."""
        values = {
            "episode_id": uuid.uuid4().hex,
            "client_id": self.name,
            "policy_version": 0,
            "ended_at": time.time(),
            **changes,
        }
        return {name: value for name, value in values.items() if value is not None}


def patiently(attempt):
    """Try until it works: disks are full for seconds only."""
    while True:
        try:
            return attempt()
        except OSError:
            time.sleep(FULL_PAUSE_S)


def _remove(path):
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def observation(rng):
    """(context, what is seen of it)"""
    context = rng.randrange(CONTEXTS)
    return context, [float(i == context) for i in range(CONTEXTS)]


def library(client):
    """Acts with the newest policy, deposits with EpisodeWriter; some sessions come in several segments."""
    actor = Actor(client.state, seed=client.rng.randrange(1 << 30))
    writer = EpisodeWriter(client.spool, client_id=client.name)
    pieces = 1
    while not client.stop.wait(client.period_s) or pieces > 1:
        actor.refresh()
        for _ in range(client.rng.randint(2, 8)):
            context, seen = observation(client.rng)
            try:
                action, logp = actor.act(np.array(seen, np.float32))
                version = actor.version
            except NoPolicyYet:
                action, logp, version = client.rng.randrange(2), float(np.log(0.5)), 0
            reward = float(action == context % 2)
            writer.step(seen, action, reward, logp=logp, policy_version=version)
        pieces = pieces - 1 if pieces > 1 else client.rng.choice([1, 1, 1, 2, 3])
        key = (client.name, writer.episode_id, writer.segment)
        end = {"terminated": pieces == 1, "truncated": pieces > 1, "continues": pieces > 1}
        path = patiently(lambda end=end: writer.end([0.0] * CONTEXTS, **end))
        client.journal.deposited(path.name, keys=[key], or_records=["refused:too_stale"])


def by_contract(client):
    """Knows the written contract only: every format, several episodes a file, in place, twice, refused."""
    ways = (_one_npz, _table, _lines, _mixed_lines, _in_place, _twice, _refused)
    number = 0
    while not client.stop.wait(client.period_s):
        number += 1
        client.rng.choice(ways)(client, f"{client.name}-{os.getpid()}-{number:06d}")


def _arrays(rng, steps):
    contexts = [rng.randrange(CONTEXTS) for _ in range(steps + 1)]
    actions = [rng.randrange(2) for _ in range(steps)]
    return {
        "obs": np.eye(CONTEXTS, dtype=np.float32)[contexts],
        "action": np.array(actions),
        "reward": np.array([float(a == c % 2) for a, c in zip(actions, contexts, strict=False)]),
        "logp": np.full(steps, np.log(0.5)),
    }


def _key(head):
    return head["client_id"], head["episode_id"], 0


def _one_npz(client, name):
    head = client.header(terminated=True, truncated=False)
    data = npz(head, **_arrays(client.rng, client.rng.randint(2, 8)))
    client.deposit(f"{name}.npz", lambda path: path.write_bytes(data))
    client.journal.deposited(f"{name}.npz", keys=[_key(head)])


def _table(client, name):
    import pyarrow as pa  # noqa: PLC0415 - only this way needs it

    ids = [uuid.uuid4().hex for _ in range(client.rng.randint(1, 5))]
    extension, encode = client.rng.choice([(".parquet", parquet), (".arrow", arrow)])
    data = encode(pa.table(columns(time.time(), ids, client_id=[client.name] * len(ids))))
    client.deposit(name + extension, lambda path: path.write_bytes(data))
    client.journal.deposited(name + extension, keys=[(client.name, one, 0) for one in ids])


def _episode_lines(rng, head, *, reward=None):
    lines = [head]
    for _ in range(rng.randint(2, 6)):
        context, seen = observation(rng)
        action = rng.randrange(2)
        earned = float(action == context % 2) if reward is None else reward
        lines.append({"obs": seen, "action": action, "reward": earned, "logp": -0.6931})
    lines.append({"final_obs": [0.0] * CONTEXTS, "terminated": True, "truncated": False})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _lines(client, name):
    heads = [client.header() for _ in range(client.rng.randint(1, 4))]
    data = b"".join(_episode_lines(client.rng, head) for head in heads)
    client.deposit(f"{name}.jsonl", lambda path: path.write_bytes(data))
    client.journal.deposited(f"{name}.jsonl", keys=map(_key, heads))


def _mixed_lines(client, name):
    """A bad episode between two good ones."""
    heads = [client.header() for _ in range(3)]
    rewards = (None, "x", None)
    pairs = zip(heads, rewards, strict=True)
    data = b"".join(_episode_lines(client.rng, head, reward=reward) for head, reward in pairs)
    client.deposit(f"{name}.jsonl", lambda path: path.write_bytes(data))
    keys = [_key(heads[0]), _key(heads[2])]
    client.journal.deposited(f"{name}.jsonl", keys=keys, records=["quarantined:bad_dtype"])


def _in_place(client, name):
    """Written slowly under its own name; where a full disk stops it for long, it is taken as cut short."""
    head = client.header()
    path = client.inbox / f"{name}.jsonl"
    file = patiently(lambda: path.open("wb", buffering=0))
    for line in _episode_lines(client.rng, head).splitlines(keepends=True):
        rest = memoryview(line)
        while rest:
            rest = rest[patiently(lambda rest=rest: file.write(rest)) :]
        time.sleep(0.02)
    file.close()
    client.journal.deposited(
        f"{name}.jsonl", keys=[_key(head)], or_records=[_accepted("quarantined", "truncated")]
    )


def _twice(client, name):
    head = client.header(terminated=True, truncated=False)
    data = npz(head, **_arrays(client.rng, 3))
    for i, twin_of in enumerate((None, f"{name}-0.npz")):
        client.deposit(f"{name}-{i}.npz", lambda path: path.write_bytes(data))
        keys, records = ([_key(head)], []) if twin_of is None else ([], ["refused:duplicate"])
        client.journal.deposited(f"{name}-{i}.npz", keys=keys, records=records, twin_of=twin_of)
        client.stop.wait(client.rng.choice([0.0, 0.5, 3.0]))


def _refused(client, name):
    now = time.time()
    changes, reason = client.rng.choice(
        [
            ({"ended_at": now - 50 * DAY_S}, "too_old"),
            ({"ended_at": now + 50 * DAY_S}, "future"),
            ({"policy_version": 2**40}, "unknown_version"),
        ]
    )
    data = _episode_lines(client.rng, client.header(**changes))
    client.deposit(f"{name}.jsonl", lambda path: path.write_bytes(data))
    client.journal.deposited(f"{name}.jsonl", records=[f"refused:{reason}"])


def burst(client):
    """Many small files, made aside and renamed at once."""
    made = []
    for i in range(client.files):
        head = client.header()
        data = _episode_lines(client.rng, head)
        name = f"{client.name}-{i:05d}.jsonl"
        aside = client.inbox / f".tmp-{name}"
        patiently(lambda aside=aside, data=data: aside.write_bytes(data))
        made.append((aside, client.inbox / name, _key(head)))
    for aside, path, _ in made:
        patiently(lambda aside=aside, path=path: aside.rename(path))
    for _, path, key in made:
        client.journal.deposited(path.name, keys=[key])


def hostile(client):
    """Every case of the corpus that stands alone, round after round, and files that end the decoder."""
    round_number = 0
    outside = client.spool.parent / f"outside-{os.getpid()}"
    outside.mkdir()
    while not client.stop.is_set():
        heavy = client.heavy and round_number == 0
        for case in _cases(client, outside, heavy=heavy):
            if client.stop.wait(client.period_s):
                break
            name = f"{client.name}-{os.getpid()}-{round_number}-{case.name}"
            client.deposit(name, case.make)
            client.journal.deposited(name, records=[_accepted(*record) for record in case.records])
            if client.rng.random() < 0.1:  # so that it is not starved
                _one_npz(client, f"{client.name}-{os.getpid()}-good-{uuid.uuid4().hex}")
        round_number += 1


def _accepted(verdict, reason):
    """A file that is cut short is tried three times; a kill in the third leaves it with another reason."""
    return f"{verdict}:{reason}|decoder_died" if "truncated" in reason else f"{verdict}:{reason}"


def _cases(client, outside, *, heavy):
    """In another order each time; most kinds are quarantined, some refused."""
    now = time.time()
    found = [case for case in patiently(lambda: list(corpus.corpus(outside, now=now))) if _alone(case)]
    found = [case for case in found if heavy or not any(part in case.name for part in HEAVY)]
    good = npz(client.header(terminated=True, truncated=False), **_arrays(client.rng, 3))
    found += [
        corpus.Case(
            name=f"kill-{how}.npz",
            make=lambda path: path.write_bytes(good),
            records=(("quarantined", "decoder_died"),),
        )
        for how in client.rng.sample(KILLERS, 2)
    ]
    client.rng.shuffle(found)
    return found


def _alone(case):
    """Whether its verdict depends on no other file, nor on a clock that is stepped."""
    reasons = {reason for _, reason in case.records}
    depends = any(part in case.name for part in DEPENDENT)
    return not (case.learned or depends or reasons & {"duplicate", "too_old", "future"})


KINDS = {"library": library, "by_contract": by_contract, "burst": burst, "hostile": hostile}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    for name in ("--spool", "--state", "--journal"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--name", required=True, help="client_id, and the beginning of file names")
    parser.add_argument("--period-s", type=float, default=0.2, help="between two files")
    parser.add_argument("--files", type=int, default=0, help="of a burst")
    parser.add_argument("--heavy", action="store_true", help="also large files, once")
    options = parser.parse_args()
    KINDS[options.kind](Client(options))


if __name__ == "__main__":
    main()
