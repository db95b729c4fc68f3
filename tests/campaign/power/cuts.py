"""Cuts: what a disk may hold after the power went: all that was flushed, and any part of what was not.

A disk with a write cache may carry out the writes since the last flush in any order, or not at all, and a
write of several sectors in part. Each write that a flush follows is there for good.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from power.devices import run
from power.tape import FLUSH, MARK, WRITE, Event

KINDS = ("none", "prefix", "writes", "sectors", "torn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """One power cut.

    Attributes:
        at: how many entries of the tape had happened.
        kind: which of the unflushed writes are on the disk: none of them, all, some, some sectors of each, or
            all but a torn last one.
        seed: of the choice.
    """

    at: int
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"cut at entry {self.at}, {self.kind}, seed {self.seed}"


def choose(tape: Sequence[Event], count: int, rng: Random) -> list[Cut]:
    """Cuts in the order of the tape: a third right behind an acknowledgement, where a missing flush shows; a
    third right before a flush, where most is at stake; the others anywhere.
    """
    marks = [i + 1 for i, event in enumerate(tape) if event.kind == MARK]
    flushes = [i for i, event in enumerate(tape) if event.kind == FLUSH]
    places = (marks, flushes, range(marks[0], len(tape) + 1))
    cuts = [
        Cut(at=rng.choice(places[i % 3]), kind=KINDS[i % len(KINDS)], seed=rng.getrandbits(32))
        for i in range(count)
    ]
    return sorted(cuts, key=lambda cut: cut.at)


def images(
    tape: Sequence[Event], cuts: Sequence[Cut], start: Path, *, sector_bytes: int, whole_bytes: int
) -> Iterator[tuple[Cut, Path]]:
    """Build each cut's disk; a disk is gone when the next one is asked for.

    Args:
        tape: what happened.
        cuts: in the order of the tape.
        start: the disk's content before; it is changed.
        sector_bytes: what is never torn.
        whole_bytes: nor is this much at the beginning of the disk.
    """
    image = start.with_name("cut.img")
    flushed = 0
    with start.open("r+b", buffering=0) as durable:
        for cut in cuts:
            last = max((i for i in range(flushed, cut.at) if tape[i].kind == FLUSH), default=flushed)
            for event in tape[flushed:last]:
                _apply(durable, event)
            flushed = last
            run("cp", "--sparse=always", str(start), str(image))
            pending = [event for event in tape[flushed : cut.at] if event.kind == WRITE]
            with image.open("r+b", buffering=0) as disk:
                for event in survivors(pending, cut, sector_bytes, whole_bytes):
                    _apply(disk, event)
            yield cut, image
            image.unlink()


def survivors(pending: Sequence[Event], cut: Cut, sector_bytes: int, whole_bytes: int = 0) -> list[Event]:
    """Those of the unflushed writes that reached the disk."""
    rng = Random(cut.seed)
    share = rng.choice((0.1, 0.5, 0.9))
    if cut.kind == "none":
        return []
    if cut.kind == "prefix":
        return list(pending)
    if cut.kind == "writes":
        return [event for event in pending if rng.random() < share]
    if cut.kind == "sectors":
        return [
            part
            for event in pending
            for part in _parts(event, sector_bytes, whole_bytes)
            if rng.random() < share
        ]
    torn = [
        part
        for event in pending[-1:]
        for part in _parts(event, sector_bytes, whole_bytes)
        if rng.random() < share
    ]
    return [*pending[:-1], *torn]


def _parts(event: Event, sector_bytes: int, whole_bytes: int) -> list[Event]:
    """Cut a write where a power cut may: between sectors, but not within the beginning of the disk."""
    places = range(event.offset, event.offset + len(event.data), sector_bytes)
    bounds = [event.offset, *(at for at in places[1:] if at >= whole_bytes), event.offset + len(event.data)]
    return [
        Event(kind=WRITE, offset=start, data=event.data[start - event.offset : end - event.offset])
        for start, end in itertools.pairwise(bounds)
    ]


def _apply(disk, event: Event) -> None:
    if event.kind == WRITE:
        disk.seek(event.offset)
        disk.write(event.data)
