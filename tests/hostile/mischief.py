"""What clients do to files while the daemon works on them."""

import hashlib
import os
import time
from pathlib import Path

from arena import Arena
from hostile_case import arrays, header, npz

SETTLED_S = 60.0


def wait_for(condition, *, timeout_s: float = SETTLED_S) -> bool:
    """Wait until ``condition()`` holds; False when it does not."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def slow_writer(arena: Arena, name: str) -> list[str]:
    """Write in place, in eight pieces and with pauses; the whole file is learned all the same."""
    data = npz(header(name, time.time()), **arrays())
    path = arena.inbox / f"{name}.npz"
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 8):
            file.write(data[start : start + len(data) // 8])
            time.sleep(0.05)
    if not wait_for(lambda: arena.learned()[path.name] == 1):
        return [f"{path.name}, written slowly in place, was not learned"]
    return []


def changed_after_claim(arena: Arena, name: str) -> list[str]:
    """Keep the file open, and overwrite it as soon as it is claimed: what was hashed is what was learned."""
    now = time.time()
    first, second = npz(header(name, now), **arrays()), npz(header(name, now), **arrays(reward=[9.0] * 4))
    aside = arena.inbox / f".tmp-{name}"
    aside.write_bytes(first)
    with aside.open("r+b", buffering=0) as file:
        aside.rename(arena.inbox / f"{name}.npz")
        claimed = arena.folder / "spool" / "claimed" / "daemon"
        wait_for(lambda: any(name in found.name for found in claimed.iterdir()), timeout_s=5.0)
        file.write(second)
        file.truncate()
    if not wait_for(lambda: arena.learned()[f"{name}.npz"] or _set_aside(arena, name)):
        return [f"{name}.npz, changed after the claim, got no verdict"]
    hashes = {hashlib.sha256(data).hexdigest() for data in (first, second)}
    rows = [row for row in arena.ledger() if row["source_name"] == f"{name}.npz"]
    return [
        f"{name}.npz was learned from bytes that no client wrote"
        for row in rows
        if row["source_sha256"] not in hashes
    ]


def grows_for_ever(arena: Arena, name: str) -> list[str]:
    """Append for seconds without ever ending a line; it is taken once closed, and set aside."""
    path = arena.inbox / f"{name}.jsonl"
    with path.open("wb", buffering=0) as file:
        until = time.monotonic() + 5.0
        file.write(b'{"episode_id": "%s"}\n' % name.encode())
        while time.monotonic() < until and not _set_aside(arena, name):
            file.write(b'{"obs": [1, 1, 1], "action": 0, "rew')
            time.sleep(0.02)
    if not wait_for(lambda: _set_aside(arena, name)):
        return [f"{name}.jsonl, which never stops growing, got no verdict"]
    return []


def swapped_for_a_link(arena: Arena, name: str) -> list[str]:
    """Replace the claimed file by a link to a secret while it waits; the secret is never read."""
    secret = arena.folder / "secret.npz"
    if not secret.exists():
        secret.write_bytes(npz(header("secret", time.time()), **arrays()))
    path = arena.inbox / f"{name}.npz"
    for _ in range(20):
        path.write_bytes(b"x")
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
        if not wait_for(lambda: not os.path.lexists(path), timeout_s=2.0):
            return [f"{name}.npz was not claimed"]
    if any(row["episode_id"] == "secret" for row in arena.ledger()):
        return [f"{name}.npz, a link, led the daemon to a secret"]
    return []


def vanishing(arena: Arena, name: str) -> list[str]:
    """Put files there and remove them at once."""
    for i in range(50):
        path = arena.inbox / f"{name}-{i}.npz"
        path.write_bytes(b"x")
        path.unlink(missing_ok=True)
    return []


def _set_aside(arena: Arena, name: str) -> bool:
    return any(Path(record["name"]).stem == name for record in arena.records())


MISCHIEF = (slow_writer, changed_after_claim, swapped_for_a_link, vanishing, grows_for_ever)
