"""One npz file an episode, 15 kB each, from the spool to a batch; against ``np.load`` of the same files."""

import hashlib
import time

import numpy as np
from speed_daemon import busy_s
from speed_figures import Figure, side_by_side
from speed_site import SPEC, deposit, episodes, scratch, site

from experience import wire
from experience.admission import Rules, Sight, admit_all
from experience.codec import Limits, decode, decoding
from experience.collate import collate
from experience.decoder import TOGETHER
from experience.in_step import in_step
from experience.intake_file import read_claimed
from experience.wire import PREFIX, Message
from experience.work_file import WorkFiles
from policies.behavior import log_probs


def measure(*, small):
    """The decode alone, and the whole path."""
    with scratch() as folder, site() as here:
        files = deposit(folder, episodes(16 if small else 128, policy=here.policy))
        rounds = 3 if small else 15
        return [_decode(files, rounds), _path(here, files, rounds)]


def _np_load(files):
    for path in files:
        with np.load(path) as arrays:
            {name: arrays[name] for name in arrays.files}


def _decode(files, rounds):
    data = [(path.name, path.read_bytes()) for path in files]
    named = [(name, content, hashlib.sha256(content).hexdigest()) for name, content in data]

    def in_turn():
        for name, content, digest in named:
            decode(content, name=name, source_sha256=digest, ingested_at=1.0)

    def together():
        with np.errstate(all="ignore"):
            for some in _groups(named):
                in_step(
                    [
                        decoding(content, name=name, source_sha256=digest, ingested_at=1.0)
                        for name, content, digest in some
                    ]
                )

    works = {"np.load": lambda: _np_load(files), "decode in step": together, "decode one by one": in_turn}
    found = side_by_side(works, rounds=rounds)
    return Figure(
        work="npz, 15 kB: decode alone, against np.load",
        value=found["np.load"] / found["decode in step"],
        unit="x",
        least=8.0,
        parts={f"{name}, µs a file": 1e6 * seconds / len(files) for name, seconds in found.items()},
    )


def _groups(items):
    """As the decoder process works on them."""
    return [items[at : at + TOGETHER] for at in range(0, len(items), TOGETHER)]


def _path(here, files, rounds):
    seconds = {"np.load": [], "path": []}
    own_s, decoder_s = 0.0, busy_s(here.decoder.pid)
    for _ in range(rounds):
        with here.filled(files):
            started = time.perf_counter()
            _np_load(files)
            seconds["np.load"].append(time.perf_counter() - started)
            started = time.perf_counter()
            own_started = time.process_time()
            taken = here.take()
            collate(taken, observation_shape=SPEC.observation_shape)
            seconds["path"].append(time.perf_counter() - started)
            own_s += time.process_time() - own_started
            assert len(taken) == len(files)
    found = {name: float(np.median(each)) for name, each in seconds.items()}
    found["processor of the daemon"] = own_s / rounds
    found["processor of the decoder"] = (busy_s(here.decoder.pid) - decoder_s) / rounds
    parts = {f"{name}, µs a file": 1e6 * each / len(files) for name, each in found.items()}
    return Figure(
        work="npz, 15 kB: spool to batch, against np.load",
        value=found["np.load"] / found["path"],
        unit="x",
        least=2.0,
        parts=parts | _parts(here, files, rounds),
    )


def _parts(here, files, rounds):
    """What the path consists of, each alone; in the daemon the decoder process works ahead."""
    data = [path.read_bytes() for path in files]
    digests = [hashlib.sha256(content).hexdigest() for content in data]
    decoded = [
        decode(content, name="a.npz", source_sha256=digest, ingested_at=1.0)
        for content, digest in zip(data, digests, strict=True)
    ]
    messages = [Message(job=1, mtime_s=0.0, decoded=one) for one in decoded]
    frames = [b"".join(wire.encode(some)) for some in _groups(messages)]
    made = [one.episodes[0] for one in decoded]
    rules = Rules(max_age_s=1e9, max_staleness=64, logp_tolerance=0.01, observation_shape=(15,), n_actions=2)
    sight = Sight(age_s=0.0, staleness=lambda _: 0, log_probs=lambda _, *rest: log_probs(here.policy, *rest))

    def copy_and_hash():
        for some in _groups(files):
            path = here.spool.root / "work" / some[0].name
            with WorkFiles() as works:
                for slot, file in enumerate(some):
                    read_claimed(str(file), works.at(str(path)), slot, Limits())
            path.unlink()

    def to_wire():
        for some in _groups(messages):
            b"".join(wire.encode(some))

    def from_wire():
        for frame in frames:
            wire.decode(frame[: PREFIX.size], frame[PREFIX.size :])

    def hash_rows():
        for episode in made:
            episode.__dict__.pop("row_sha256", None)
            episode.row_sha256  # noqa: B018 - computed on access

    works = {
        "copy, hash": copy_and_hash,
        "to the pipe": to_wire,
        "from the pipe": from_wire,
        "hash of rows": hash_rows,
        "admit": lambda: [admit_all(some, rules, [sight] * len(some)) for some in _groups(made)],
        "collate": lambda: collate(made, observation_shape=SPEC.observation_shape),
    }
    found = side_by_side(works, rounds=rounds)
    return {f"{name}, µs a file": 1e6 * seconds / len(files) for name, seconds in found.items()}
