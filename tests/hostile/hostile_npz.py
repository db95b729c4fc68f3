"""Hostile npz files: zip archives, npy members and their metadata."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
from hostile_case import Case, arrays, header, npz, quarantined, refused, write

BOMB_BYTES = 200 * 2**20
"""Above what a file may decode to, quick to make."""


class Canary:
    """Creates a file when it is unpickled; nothing may ever unpickle it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def cases(now, canary):
    """Yield every npz case.

    Args:
        now: UTC seconds, for episodes that are to be young enough.
        canary: a path that exists only if something was unpickled.
    """
    yield from _archives(now)
    yield from _pickles(now, canary)
    yield from _arrays(now)
    yield from _headers(now)


def _archives(now):
    good = npz(header("n", now), **arrays())
    whole = "quarantined"
    yield Case(name="bomb.npz", make=write(lambda: _bomb(BOMB_BYTES)), records=quarantined("too_large"))
    yield Case(name="bomb-ratio.npz", make=write(lambda: _bomb(50 * 2**20)), records=quarantined("too_large"))
    yield Case(
        name="bomb-that-lies.npz",
        make=write(lambda: _lying_bomb(BOMB_BYTES)),
        records=((whole, "malformed|too_large"),),
    )
    yield Case(
        name="many-members.npz",
        make=write(lambda: many_members(200_000)),
        records=((whole, "malformed|too_large"),),
    )
    for i, name in enumerate(
        ("../../escape.npy", "/etc/escape.npy", "a\\..\\b.npy", "a\x00b.npy", "\x1b[2J.npy")
    ):
        yield Case(
            name=f"member-name-{i}.npz", make=write(_zip({name: b""})), records=quarantined("malformed")
        )
    yield Case(
        name="member-is-no-array.npz", make=write(_zip({"obs.txt": b"x"})), records=quarantined("malformed")
    )
    yield Case(name="empty.npz", make=write(b""), records=quarantined("truncated"))
    yield Case(name="half.npz", make=write(good[: len(good) // 2]), records=quarantined("truncated"))
    yield Case(name="noise.npz", make=write(bytes(range(256)) * 40), records=quarantined("malformed"))
    yield Case(name="trailing.npz", make=write(good + bytes(100)), records=quarantined("truncated"))
    yield Case(name="text.npz", make=write(b"hello\n"), records=quarantined("malformed"))
    twice = _zip({"obs.npy": b"", "OBS.npy": b""}).replace(b"OBS.npy", b"obs.npy")
    yield Case(name="same-member-twice.npz", make=write(twice), records=quarantined("malformed"))


def _bomb(n_bytes):
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("obs.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f4", "fortran_order": False, "shape": (n_bytes // 4,)}
        )
        for _ in range(n_bytes // 2**20):
            member.write(bytes(2**20))
    return stream.getvalue()


def _lying_bomb(n_bytes):
    """The directory announces 1,000 bytes."""
    data = bytearray(_bomb(n_bytes))
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, at + 24, 1000)
    return bytes(data)


def many_members(count):
    """A zip file of empty members, written by hand: zipfile takes seconds."""
    local, central, offset = [], [], 0
    for i in range(count):
        name = b"%07d.npy" % i
        local.append(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name)
        central.append(
            struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, offset
            )
            + name
        )
        offset += len(local[-1])
    directory = b"".join(central)
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, min(count, 65535), min(count, 65535), len(directory), offset, 0
    )
    return b"".join(local) + directory + end


def _zip(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _pickles(now, canary):
    live = pickle.dumps(Canary(canary))
    yield Case(name="pickle.npz", make=write(live), records=quarantined("malformed"))
    yield Case(
        name="pickle-member.npz", make=write(_zip({"obs.npy": live})), records=quarantined("malformed")
    )
    objects = np.array([Canary(canary)] * 5, dtype=object)
    yield Case(
        name="pickled-obs.npz",
        make=write(npz(header("p", now), **arrays(obs=objects))),
        records=quarantined("pickled"),
    )
    stream = io.BytesIO()
    np.savez(stream, meta=np.array(Canary(canary), dtype=object), **arrays())
    yield Case(name="pickled-meta.npz", make=write(stream.getvalue()), records=quarantined("pickled"))


def _arrays(now):
    def case(name, records=(), learned=0, **replaced):
        content = npz(header(name, now), **arrays(**replaced))
        return Case(name=f"{name}.npz", make=write(content), records=records, learned=learned)

    obs, reward = arrays()["obs"], arrays()["reward"]
    for text in ("nan", "inf", "-inf"):
        value = float(text)
        yield case(f"obs{text}", quarantined("not_finite"), obs=_with(obs, value))
        yield case(f"reward{text}", quarantined("not_finite"), reward=_with(reward, value))
        yield case(f"logp{text}", quarantined("not_finite"), logp=np.array([value, -1, -1, -1.0]))
    yield case("obs1e39", quarantined("not_finite"), obs=_with(obs.astype(float), 1e39))
    yield case("obs1e38", refused("out_of_range"), obs=_with(obs, 1e38))
    yield case("obs-1e38", refused("out_of_range"), obs=_with(obs, -1e38))
    yield case("reward1e38", refused("out_of_range"), reward=_with(reward, 1e38))
    yield case("logp-1e38", refused("out_of_range"), logp=np.array([-1e38, -1, -1, -1.0]))
    yield case("logp-positive", quarantined("bad_value"), logp=np.full(4, 0.5))
    yield case("long-action", quarantined("bad_shape"), action=np.zeros(5, int))
    yield case("long-obs", quarantined("bad_shape"), obs=np.zeros((9, 3), np.float32))
    yield case(
        "no-steps", quarantined("bad_shape"), obs=obs[:1], action=obs[:0, 0], reward=reward[:0], logp=None
    )
    yield case("no-width", quarantined("bad_shape"), obs=np.zeros((5, 0), np.float32))
    for missing in ("obs", "action", "reward"):
        yield case(f"no-{missing}", quarantined("missing_field"), **{missing: None})
    yield case("wide", refused("observation_width"), obs=np.zeros((5, 99), np.float32))
    yield case("action-2e9", refused("action_space"), action=np.array([0, 1, 2_000_000_000, 0]))
    yield case("action-negative", quarantined("bad_value"), action=np.array([0, 1, -1, 0]))
    yield case("action-fraction", refused("action_space"), action=np.array([0.5, 1, 0, 0]))
    yield case("mask-forbids", quarantined("bad_value"), mask=np.zeros((4, 2), bool))
    for dtype in ("c8", "M8[s]", "U3", "S3", "longdouble", [("a", "<f4")]):
        odd = np.zeros((5, 3), dtype)
        name = "".join(filter(str.isalnum, str(dtype)))
        yield case(f"dtype-{name}", (("quarantined", "bad_dtype|malformed"),), obs=odd)
    yield case("dtype-u8", quarantined("bad_value"), action=np.array([0, 1, 2**64 - 1, 0], np.uint64))
    for dtype in (">f4", ">f8", "<f2", ">i2", "|u1", "?"):
        small = np.array([[0, 1, 1]] * 5)
        name = "".join(filter(str.isalnum, dtype)) + ("big" * dtype.startswith(">"))
        yield case(f"order-{name}", learned=1, obs=small.astype(dtype), action=np.array([0, 1, 0, 1], ">i2"))
    yield case("fortran", learned=1, obs=np.asfortranarray(obs))


def _with(array, value):
    changed = array.copy()
    changed.flat[3] = value
    return changed


def _headers(now):
    def case(name, records=(), learned=0, raw=None, **replaced):
        content = npz(raw or header(name, now, **replaced), **arrays())
        return Case(name=f"{name}.npz", make=write(content), records=records, learned=learned)

    for i, bad in enumerate(("a\nb", "\x1b]0;x\x07", "\x00", "\u202egnp.x", "x" * 300, "")):
        yield case(f"id-{i}", quarantined("bad_value"), episode_id=bad)
        if bad:
            yield case(f"client-{i}", quarantined("bad_value"), client_id=bad)
    yield case("id-surrogate", quarantined("bad_value"), raw='{"episode_id": "\\ud800", "terminated": true}')
    yield case("future", refused("future"), ended_at=now + 86_400)
    yield case("milliseconds", quarantined("bad_value"), ended_at=now * 1000)
    yield case("old", refused("too_old"), ended_at=now - 1e6)
    yield case("before-1970", quarantined("bad_value"), ended_at=-1.0)
    yield case("time-nan", quarantined("not_finite"), raw='{"ended_at": NaN, "terminated": true}')
    yield case("time-no-zone", quarantined("bad_value"), ended_at="2026-01-01T00:00:00")
    yield case("version-unknown", refused("unknown_version"), policy_version=999)
    yield case("version-negative", quarantined("bad_value"), policy_version=-1)
    yield case("version-2e63", quarantined("bad_value"), policy_version=2**63)
    yield case("version-text", quarantined("bad_value"), policy_version="1; drop table")
    yield case("segment-2e64", quarantined("bad_value"), segment=2**64)
    yield case("no-outcome", quarantined("missing_field"), terminated=None)
    yield case("schema-9", quarantined("bad_value"), schema_version=9)
    deep = '{"terminated": true, "x": ' + "[" * 5000 + "]" * 5000 + "}"
    yield case("json-deep", quarantined("too_large"), raw=deep)
    yield case(
        "json-long-number", quarantined("too_large"), raw='{"terminated": true, "x": %s}' % ("9" * 5000)
    )
    yield case("json-1e999", quarantined("not_finite"), raw='{"terminated": true, "x": 1e999}')
    yield case("json-twice", quarantined("bad_value"), raw='{"terminated": true, "terminated": false}')
    yield case("json-list", quarantined("bad_value"), raw="[1]")
    yield case("json-cut", quarantined("malformed"), raw='{"terminated": tr')
    same = npz(header("same", now), **arrays())
    other = npz(header("same", now), **arrays(reward=np.ones(4)))
    yield Case(name="same-1.npz", make=write(same), learned=1)
    yield Case(name="same-2.npz", make=write(same), records=refused("duplicate"))
    yield Case(name="same-3.npz", make=write(other), records=refused("conflicting_duplicate"))
    yield Case(
        name="header-60-mb.npz",
        make=write(lambda: _huge_npy_header(60 * 10**6)),
        records=quarantined("malformed"),
    )


def _huge_npy_header(n_bytes):
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(n_bytes)
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text
    head = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(content), len(content), len(content), 7, 0
    )
    row = struct.pack(
        "<4s6H3L5H2L",
        b"PK\1\2",
        20,
        20,
        0,
        0,
        0,
        0,
        zlib.crc32(content),
        len(content),
        len(content),
        7,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    local, central = head + b"obs.npy" + content, row + b"obs.npy"
    return local + central + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


def small(now) -> bytes:
    """A small valid file, whose every bit can be flipped."""
    return npz(header("small", now), **arrays(2))
