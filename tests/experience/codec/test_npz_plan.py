"""A plan gives what the long way gives: the same episode, or the same words about the same file."""

import functools
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.codec import Limits, decode, npz
from experience.codec.header_plan import HeaderPlans
from experience.codec.npz_plan import Plans, plan_of
from experience.codec.zip_members import CENTRAL, END
from experience.errors import InputError
from experience.wire import Message, encode


def deposited(n_steps=3, *, seed=0, save=np.savez, **others):
    """A file as clients write it; ``others`` replace its arrays, None leaves one out."""
    rng = np.random.default_rng(seed)
    meta = {"episode_id": f"e{seed}", "client_id": "c", "terminated": False, "truncated": True}
    arrays = {
        "meta": np.array(json.dumps(meta)),
        "obs": rng.standard_normal((n_steps + 1, 2)).astype(np.float32),
        "action": rng.integers(2, size=n_steps),
        "reward": rng.standard_normal(n_steps),
        "logp": -rng.random(n_steps),
    }
    file = io.BytesIO()
    save(file, **{name: array for name, array in (arrays | others).items() if array is not None})
    return file.getvalue()


def written(n_steps=3, *, before=b"", behind=b"", **others):
    """The same without extra fields, as ``EpisodeWriter`` writes it; or with bytes that belong nowhere."""
    with np.load(io.BytesIO(deposited(n_steps, **others))) as arrays, io.BytesIO() as file:
        file.write(before)
        with zipfile.ZipFile(file, "w") as archive:
            for name in arrays.files:
                member = io.BytesIO()
                np.lib.format.write_array(member, arrays[name])
                archive.writestr(f"{name}.npy", member.getvalue() + behind)
        return file.getvalue()


def outcome(data, plans, monkeypatch, limits=None, headers=None):
    """Everything that reading ``data`` with these plans gives."""
    monkeypatch.setattr(npz, "_PLANS", plans)
    monkeypatch.setattr(npz, "_HEADERS", headers or HeaderPlans())
    try:
        decoded = decode(data, name="a.npz", source_sha256="0" * 64, ingested_at=1.0, limits=limits)
    except InputError as error:
        return error.problem
    return b"".join(encode([Message(job=1, mtime_s=0.0, decoded=decoded)]))


def learned(like):
    """Plans for files like ``like``."""
    plans, headers = Plans(), HeaderPlans()
    plans._known, headers._known = map(list, _known(like))
    return plans, headers


@functools.cache
def _known(like):
    plans, headers = Plans(), HeaderPlans()
    with pytest.MonkeyPatch.context() as monkeypatch:
        outcome(like, plans, monkeypatch, headers=headers)
    return plans._known, headers._known


def both(data, like, monkeypatch, limits=None):
    """Assert that a plan for files like ``like`` changes nothing about ``data``; what it gives."""
    plans, headers = learned(like)
    planned = outcome(data, plans, monkeypatch, limits, headers)
    assert planned == outcome(data, Plans(), monkeypatch, limits)
    return planned


def applies(data, like, limits=None):
    return plan_of(like).read(data, limits or Limits()) is not None


@pytest.mark.parametrize("make", [deposited, written])
@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 99, 100, 2500])
def test_other_lengths_and_values_are_planned(make, n_steps, monkeypatch):
    like, data = make(), make(n_steps, seed=n_steps)
    assert applies(data, like)
    assert isinstance(both(data, like, monkeypatch), bytes)


def test_arrays_are_aligned_and_read_only():
    for name, array in plan_of(written()).read(written(8), Limits()).items():
        assert array.flags.aligned, name
        assert not array.flags.writeable, name


@pytest.mark.parametrize(
    "data",
    [
        deposited(logp=None),
        deposited(mask=np.ones((3, 2), bool)),
        deposited(save=np.savez_compressed),
        deposited(reward=np.zeros(3, np.float32)),
        deposited(action=np.zeros((3, 2), np.float64, order="F")),
        deposited(reward=np.zeros(0)),
        deposited(obs=np.full((4, 2), np.nan, np.float32)),
        deposited(obs=np.zeros((4, 2), object)),
        deposited(meta=np.array("{")),
        written(),
        deposited() + b"x",
        b"PK",
        b"PK\x05\x06" + bytes(18),
    ],
)
def test_other_files_are_read_the_long_way_or_alike(data, monkeypatch):
    both(data, deposited(), monkeypatch)


@pytest.mark.parametrize(
    "odd", [{"before": b"PK"}, {"before": bytes(64)}, {"behind": b"x"}, {"behind": bytes(8)}]
)
def test_bytes_that_belong_nowhere(odd, monkeypatch):
    assert both(written(**odd), written(), monkeypatch).reason == "malformed"


def test_a_file_without_members_is_judged_as_often_as_it_comes(monkeypatch):
    empty = b"PK\x05\x06" + bytes(18)
    assert plan_of(empty) is None
    assert both(empty, empty, monkeypatch).reason == "missing_field"


def test_compressed_files_have_no_plan():
    assert plan_of(deposited(save=np.savez_compressed)) is None


@pytest.mark.parametrize(
    "limits",
    [Limits(max_members=4), Limits(max_decoded_bytes=600), Limits(ratio_floor_bytes=100, max_ratio=0)],
)
def test_limits_hold(limits, monkeypatch):
    data = deposited()
    assert not applies(data, data, limits)
    assert both(data, data, monkeypatch, limits).reason == "too_large"


@pytest.mark.parametrize("make", [deposited, written])
def test_every_byte_flipped(make, monkeypatch):
    like = make(2)
    for at in range(len(like)):
        damaged = bytearray(like)
        damaged[at] ^= 1 << at % 8
        both(bytes(damaged), like, monkeypatch)


@pytest.mark.parametrize("make", [deposited, written])
def test_every_length_cut(make, monkeypatch):
    like = make(2)
    for end in range(0, len(like), 7):
        both(like[:end], like, monkeypatch)


def resealed(data):
    """Make every checksum and every local header's right again, so that what is inside is looked at."""
    result = bytearray(data)
    at = END.unpack_from(data, len(data) - END.size)[6]
    while data.startswith(b"PK\x01\x02", at):
        _, _, _, _, size, _, n_name, n_extra, n_comment, local = CENTRAL.unpack_from(data, at)
        if local + 30 > len(data):
            break
        start = local + 30 + sum(struct.unpack_from("<HH", data, local + 26))
        crc = struct.pack("<L", zlib.crc32(data[start : start + size]))
        result[at + 16 : at + 20] = result[local + 14 : local + 18] = crc
        at += CENTRAL.size + n_name + n_extra + n_comment
    return bytes(result)


edits = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 4), st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(changes=edits, same_length=st.booleans(), sealed=st.booleans(), extra=st.booleans())
def test_edited_at_random(changes, same_length, sealed, extra):
    like = (deposited if extra else written)(2)
    data = like
    for where, n_cut, put in changes:
        at = int(where * len(data))
        data = data[:at] + put + data[at + (len(put) if same_length else n_cut) :]
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(resealed(data) if sealed else data, like, monkeypatch)


@settings(max_examples=200, deadline=None)
@given(
    member=st.integers(0, 4),
    field=st.sampled_from([5, 6, 7, 8]),
    value=st.integers(0, 2**32 - 1) | st.integers(0, 3000),
)
def test_sizes_and_places_that_lie(member, field, value):
    like = written(2)
    at = END.unpack_from(like, len(like) - END.size)[6]
    for _ in range(member):
        n_name, n_extra, n_comment = CENTRAL.unpack_from(like, at)[6:9]
        at += CENTRAL.size + n_name + n_extra + n_comment
    where = {5: 20, 6: 24, 7: 16, 8: 42}[field]
    data = like[: at + where] + struct.pack("<L", value) + like[at + where + 4 :]
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(resealed(data), like, monkeypatch)


def test_few_plans_are_kept():
    plans = Plans()
    for count in range(1, 9):
        plans.learn(deposited(**{f"x{i}": np.zeros(3) for i in range(count)}))
    assert plans.read(deposited(x0=np.zeros(3)), Limits()) is None
    assert plans.read(deposited(**{f"x{i}": np.zeros(3) for i in range(8)}), Limits()) is not None
