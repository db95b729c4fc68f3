import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest

from experience.errors import InputError

META = {"episode_id": "e1", "client_id": "bot", "terminated": True, "truncated": False}


def only(decoded):
    (episode,) = decoded.episodes
    assert decoded.problems == ()
    return episode


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_what_numpy_writes(decode, npz, arrays, compressed):
    episode = only(decode(npz(compressed=compressed, logp=np.full(3, -0.7), mask=np.ones((3, 2), bool))))
    np.testing.assert_array_equal(episode.obs, arrays["obs"])
    np.testing.assert_array_equal(episode.action, arrays["action"])
    np.testing.assert_array_equal(episode.reward, arrays["reward"])
    np.testing.assert_array_equal(episode.logp, [-0.7] * 3)
    assert episode.mask.all()
    assert (episode.key, episode.terminated, episode.truncated) == (("bot", "e1", 0, ""), True, False)
    assert (episode.source_name, episode.source_sha256, episode.ingested_at) == ("e.npz", "s" * 64, 5.0)
    assert not episode.obs.flags.writeable


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "<f8", ">i2", "<u4", "?"])
def test_any_number_type_becomes_native_float32(decode, npz, dtype):
    obs = np.array([[0, 1], [1, 0], [1, 1], [0, 0]]).astype(dtype)
    episode = only(decode(npz(obs=obs)))
    assert episode.obs.dtype == np.float32
    assert episode.obs.dtype.isnative
    np.testing.assert_array_equal(episode.obs, obs)


def test_uint8_observations_stay(decode, npz):
    obs = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    assert only(decode(npz(obs=obs))).obs.dtype == np.uint8


def test_fortran_order(decode, npz, arrays):
    obs = np.asfortranarray(arrays["obs"])
    episode = only(decode(npz(obs=obs)))
    np.testing.assert_array_equal(episode.obs, arrays["obs"])
    assert episode.obs.flags.c_contiguous


@pytest.mark.parametrize(
    ("action", "expected", "dtype"),
    [
        (np.array([[0], [1], [1]], ">i4"), [0, 1, 1], np.int64),
        (np.array([False, True, True]), [0, 1, 1], np.int64),
        (np.array([0.5, 1.0, -1.0]), [[0.5], [1.0], [-1.0]], np.float32),
        (np.array([[0.5, 2], [1, 2], [3, 4]], ">f8"), [[0.5, 2], [1, 2], [3, 4]], np.float32),
    ],
)
def test_actions(decode, npz, action, expected, dtype):
    episode = only(decode(npz(action=action)))
    np.testing.assert_array_equal(episode.action, expected)
    assert episode.action.dtype == dtype


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        ({"kind": "continuous", "shape": [2]}, np.array([[1, 0], [0, 1], [1, 1]]), [[1, 0], [0, 1], [1, 1]]),
        ({"kind": "discrete", "n": 2}, np.array([0.0, 1.0, 1.0]), [0, 1, 1]),
    ],
)
def test_a_declared_space_decides(decode, npz, space, action, expected):
    episode = only(decode(npz(action=action, meta=META | {"action_space": space})))
    np.testing.assert_array_equal(episode.action, expected)
    assert episode.action.dtype == (np.float32 if space["kind"] == "continuous" else np.int64)


def test_synonyms(decode, arrays):
    file = io.BytesIO()
    np.savez(
        file,
        observations=arrays["obs"],
        actions=arrays["action"],
        rewards=arrays["reward"],
        dones=np.array([False, False, True]),
        action_logp=np.full(3, -0.1),
    )
    episode = only(decode(file.getvalue(), "bot-7.npz"))
    assert episode.terminated
    assert not episode.truncated
    np.testing.assert_array_equal(episode.logp, [-0.1] * 3)


def test_header_fields(decode, npz):
    meta = META | {
        "schema_version": 1,
        "episode_id": 17,
        "segment": 2,
        "agent_id": "left",
        "env_id": "CartPole-v1",
        "seed": 9,
        "tags": ["a", "b"],
        "policy_version": 4.0,
        "policy_digest": "ab" * 32,
        "started_at": "2026-01-01T01:00:00+01:00",
        "ended_at": 1767225600.5,
        "info": {"b": 1, "a": [None]},
        "observation_shape": [2, 2],
        "action_space": {"kind": "discrete", "n": 2},
        "ext.lap": {"x": 1},
        "favorite": None,
        "unheard": "of",
    }
    episode = only(decode(npz(meta=meta)))
    assert episode.key == ("bot", "17", 2, "left")
    assert (episode.env_id, episode.seed, episode.tags) == ("CartPole-v1", 9, ("a", "b"))
    assert (episode.policy_version, episode.policy_digest) == (4, "ab" * 32)
    assert (episode.started_at, episode.ended_at) == (1767225600.0, 1767225600.5)
    assert episode.info_json == '{"a":[null],"b":1}'
    assert episode.obs.shape == (4, 2, 2)
    assert episode.observation_shape == (2, 2)
    assert episode.action_space == {"kind": "discrete", "n": 2}
    assert episode.extensions == {"ext.lap": {"x": 1}, "favorite": None, "unheard": "of"}


@pytest.mark.parametrize(
    "meta",
    [
        np.array(json.dumps(META)),
        np.array([json.dumps(META)]),
        np.array(json.dumps(META)).astype(">U200"),
        np.array(json.dumps(META).encode()),
        np.frombuffer(json.dumps(META).encode(), np.uint8),
    ],
    ids=["str", "str1", "big-endian", "bytes", "uint8"],
)
def test_forms_of_meta(decode, npz, meta):
    assert only(decode(npz(meta=meta))).episode_id == "e1"


def test_header_fields_as_arrays_of_their_own(decode, npz):
    data = npz(
        meta={"client_id": "bot"},
        episode_id=np.array("e2"),
        policy_version=np.array(3),
        truncated=np.True_,
        vf_preds=np.array([0.5, 1.5, 2.5], np.float32),
    )
    episode = only(decode(data))
    assert (episode.key, episode.policy_version) == (("bot", "e2", 0, ""), 3)
    assert (episode.terminated, episode.truncated) == (False, True)
    assert episode.extensions == {"vf_preds": [0.5, 1.5, 2.5]}


def test_observations_of_the_steps_with_the_final_one_apart(decode, npz, arrays):
    episode = only(decode(npz(obs=arrays["obs"][:3], final_obs=arrays["obs"][3])))
    np.testing.assert_array_equal(episode.obs, arrays["obs"])


def test_t_rows_only_when_terminated(decode, npz, problem_of, arrays):
    assert len(only(decode(npz(obs=arrays["obs"][:3]))).obs) == 3
    problem = problem_of(npz(obs=arrays["obs"][:3], meta=META | {"terminated": False, "truncated": True}))
    assert (problem.reason, problem.field) == ("bad_shape", "obs")


def test_an_id_is_made_of_name_and_bytes(decode, npz):
    data = npz(meta={"terminated": True})
    ids = {only(decode(data, name)).episode_id for name in ("a.npz", "a.npz", "b.npz", "\udcff.npz")}
    assert len(ids) == 3
    assert all(identity.endswith(":0") for identity in ids)


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"reward": None}, "missing_field", "reward"),
        ({"obs": None}, "missing_field", "obs"),
        ({"action": None}, "missing_field", "action"),
        ({"meta": None}, "missing_field", "terminated"),
        ({"meta": {"truncated": False}}, "missing_field", "terminated"),
        ({"meta": "not JSON"}, "malformed", "meta"),
        ({"meta": "[1]"}, "bad_value", "meta"),
        ({"meta": '{"terminated": true, "terminated": false}'}, "bad_value", "meta"),
        ({"meta": "[" * 1000 + "]" * 1000}, "too_large", "meta"),
        ({"meta": '{"seed": ' + "1" * 100 + "}"}, "too_large", "meta"),
        ({"meta": '{"seed": NaN}'}, "not_finite", "meta"),
        ({"meta": '{"terminated": true, "x": 1e999}'}, "not_finite", "x"),
        ({"meta": '{"terminated": true, "x": "\\ud800"}'}, "bad_value", "meta"),
        ({"meta": np.array([1.5])}, "bad_dtype", "meta"),
        ({"meta": np.array(b"\xff{}")}, "malformed", "meta"),
        ({"meta": np.frombuffer(b"\xff" * 8, "<U2")}, "malformed", "meta"),
        ({"meta": np.array(META, dtype=object)}, "pickled", "meta"),
        ({"obs": np.array([[1, "a"]] * 4, dtype=object)}, "pickled", "obs"),
        ({"obs": np.array(["a", "b", "c", "d"])}, "bad_dtype", "obs"),
        ({"obs": np.ones((4, 2), complex)}, "bad_dtype", "obs"),
        ({"obs": np.ones((4, 2), np.longdouble)}, "bad_dtype", "obs"),
        ({"obs": np.zeros(4, [("x", "f4")])}, "bad_dtype", "obs"),
        ({"obs": np.zeros(4, "M8[s]")}, "bad_dtype", "obs"),
        ({"obs": np.float32(1)}, "bad_shape", "obs"),
        ({"obs": np.ones((4, 0), np.float32)}, "bad_shape", "obs"),
        ({"obs": np.ones((6, 2), np.float32)}, "bad_shape", "obs"),
        ({"obs": np.array([[1.0], [2.0], [1e300], [1.0]])}, "not_finite", "obs[2]"),
        ({"obs": np.array([[1.0], [np.nan], [1.0], [1.0]], np.float32)}, "not_finite", "obs[1]"),
        ({"reward": np.array([1, np.inf, 0])}, "not_finite", "reward[1]"),
        ({"reward": np.ones((3, 2))}, "bad_shape", "reward"),
        ({"reward": np.ones(0)}, "bad_shape", "reward"),
        ({"action": np.array([0, -1, 0])}, "bad_value", "action"),
        ({"action": np.array([0, 2**63, 0], np.uint64)}, "bad_value", "action"),
        ({"action": np.zeros((3, 2), int)}, "bad_shape", "action"),
        ({"action": np.zeros((3, 2, 2))}, "bad_shape", "action"),
        ({"action": np.zeros(2, int)}, "bad_shape", "action"),
        ({"logp": np.ones(3)}, "bad_value", "logp"),
        ({"logp": np.zeros((3, 2))}, "bad_shape", "logp"),
        ({"mask": np.array([[1, 0]] * 3)}, "bad_value", "mask[1]"),
        ({"mask": np.array([[1, 7]] * 3)}, "bad_value", "mask"),
        ({"mask": np.full((3, 2), 7, np.uint8).view(bool)}, "bad_value", "mask"),
        ({"mask": np.ones((3, 1), bool)}, "bad_shape", "mask"),
        ({"mask": np.ones(3, bool)}, "bad_shape", "mask"),
        ({"mask": np.ones((3, 2), bool), "action": np.ones(3)}, "bad_value", "mask"),
        ({"policy_version_step": np.array([1, -1, 2])}, "bad_value", "policy_version_step"),
        ({"policy_version_step": np.array([1, 1.5, 2])}, "bad_dtype", "policy_version_step"),
        ({"terminated": np.array([True, False, True])}, "bad_value", "terminated[0]"),
        ({"terminated": np.False_}, "bad_value", "terminated"),
        ({"terminated": np.array("yes")}, "bad_value", "terminated"),
        ({"rewards": np.ones(3)}, "bad_value", "reward"),
        ({"odd": np.array([np.nan])}, "not_finite", "odd"),
        ({"odd": np.array([1j])}, "bad_dtype", "odd"),
    ],
)
def test_refusals_name_the_field(problem_of, npz, change, reason, field):
    problem = problem_of(npz(**change))
    assert (problem.reason, problem.field) == (reason, field)
    assert problem.value
    assert problem.accepted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("schema_version", True),
        ("episode_id", ""),
        ("episode_id", "x" * 257),
        ("episode_id", "a\nb"),
        ("episode_id", 1.5),
        ("client_id", ["bot"]),
        ("segment", -1),
        ("segment", "0"),
        ("seed", 2**70),
        ("seed", 1.5),
        ("tags", {"a": 1}),
        ("policy_version", -1),
        ("policy_version", "v3"),
        ("policy_version", True),
        ("started_at", "2026-01-01T00:00:00"),
        ("started_at", "yesterday"),
        ("ended_at", 1767225600000),
        ("ended_at", -5),
        ("ended_at", True),
        ("terminated", "true"),
        ("truncated", 2),
        ("action_space", {"kind": "box"}),
        ("action_space", {"kind": "discrete", "n": 0}),
        ("action_space", {"kind": "continuous", "shape": [1, 2]}),
        ("observation_shape", [0]),
        ("observation_shape", 4),
        ("info_json", {"a": 1}),
    ],
)
def test_bad_header_values(problem_of, npz, field, value):
    problem = problem_of(npz(meta=META | {field: value}))
    assert (problem.reason, problem.field) == ("bad_value", field)


def test_declarations_that_do_not_fit(problem_of, npz):
    assert problem_of(npz(meta=META | {"observation_shape": [5]})).field == "obs"
    discrete = {"action_space": {"kind": "discrete", "n": 1}}
    assert problem_of(npz(meta=META | discrete)).field == "action"
    continuous = {"action_space": {"kind": "continuous", "shape": [2]}}
    assert problem_of(npz(meta=META | continuous)).field == "action"


def same(one, other):
    return one.row_sha256 == other.row_sha256


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_called_truncated(decode, npz, compressed):
    data = npz(compressed=compressed)
    for size in range(len(data)):
        with pytest.raises(InputError) as caught:
            decode(data[:size])
        assert caught.value.problem.reason == "truncated"


@pytest.mark.parametrize("compressed", [False, True])
def test_every_flipped_bit_is_noticed_or_harmless(decode, npz, compressed):
    data = npz(compressed=compressed)
    original = only(decode(data))
    harmless = 0
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(bytes(flipped))
        except InputError:
            continue
        assert same(only(decoded), original)
        harmless += 1
    assert harmless < 4 * 60 * 8  # of four members: dates, versions, attributes, sizes in the local header


def test_a_zip_that_is_none(problem_of):
    assert problem_of(b"hello, I am no zip file").reason == "malformed"
    assert problem_of(b"").reason == "truncated"
    assert problem_of(b"PK").reason == "truncated"


def test_limits_come_before_unpacking(problem_of, npz, zipped, monkeypatch):
    monkeypatch.setattr(zlib, "decompressobj", None)
    bomb = npz(obs=np.zeros((4, 2**20), np.uint8), compressed=True)
    assert problem_of(bomb).field == "compression ratio"
    assert problem_of(bomb, max_decoded_bytes=2**20).field == "decoded size"
    assert problem_of(zipped({f"{i}.npy": b"" for i in range(65)})).field == "zip directory"
    assert problem_of(npz(), max_file_bytes=100).field == "file size"


def test_constant_rewards_are_no_bomb(decode, npz):
    steps = 10_000
    data = npz(
        obs=np.random.default_rng(0).normal(size=(steps, 4)).astype(np.float32),
        action=np.zeros(steps, int),
        reward=np.ones(steps),
        compressed=True,
    )
    assert only(decode(data)).n_steps == steps


def test_a_size_that_lies(problem_of, npz):
    """The directory announces little, the deflated stream holds more."""
    data = bytearray(npz(obs=np.zeros((4, 1000), np.float32), compressed=True))
    at = data.index(b"PK\x01\x02")
    (size,) = struct.unpack_from("<L", data, at + 24)
    assert size > 16_000
    struct.pack_into("<L", data, at + 24, 100)
    problem = problem_of(bytes(data))
    assert (problem.reason, problem.field) == ("malformed", "obs.npy")


@pytest.mark.parametrize("name", ["../obs.npy", "a/obs.npy", "a\\obs.npy", "obs.txt", "ob\ns.npy"])
def test_member_names(problem_of, zipped, name):
    assert problem_of(zipped({name: b"x"})).field == "member name"


def test_members_that_are_no_arrays(problem_of, zipped):
    def npy(header, content=b"", version=b"\x01\x00"):
        return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content

    good = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"
    cases = {
        b"": "malformed",
        b"\x93NUMPY": "malformed",
        npy(good, b"1234", version=b"\x09\x00"): "malformed",
        npy(good, b"123"): "malformed",
        npy(b"nonsense\n"): "malformed",
        npy(b"[1]\n"): "malformed",
        npy(b"{'descr': '<f4'}\n"): "malformed",
        npy(b"(" * 5000): "malformed",
        npy(b"{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}", b"1234"): "malformed",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"1234"): "malformed",
        npy(b"{'descr': 'nope', 'fortran_order': False, 'shape': (1,)}", b"1234"): "bad_dtype",
        npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"1234"): "bad_dtype",
        npy(b"{'descr': ',,,', 'fortran_order': False, 'shape': (1,)}", b"1234"): "bad_dtype",
        npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (9999999,), }\n"): "bad_dtype",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, %d), }\n" % 2**90): "bad_shape",
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"x"): "pickled",
    }
    for content, reason in cases.items():
        problem = problem_of(zipped({"obs.npy": content}))
        assert (problem.reason, problem.field) == (reason, "obs"), content


def test_unusual_but_valid_npy_headers(decode, npz, zipped):
    with zipfile.ZipFile(io.BytesIO(npz())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = b'{"shape": (3,), "fortran_order": False, "descr": "<f8"}'
    content = np.array([1.0, 2.0, 3.0]).tobytes()
    members["reward.npy"] = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + content
    np.testing.assert_array_equal(only(decode(zipped(members))).reward, [1.0, 2.0, 3.0])
    for spaces in (60, 61, 62, 63, 64, 65, 66, 5000):  # around 128 bytes of magic, length and header
        padded = header + b" " * spaces
        members["reward.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content
        np.testing.assert_array_equal(only(decode(zipped(members))).reward, [1.0, 2.0, 3.0])


def test_encrypted_and_foreign_compression(problem_of, npz, zipped):
    assert problem_of(zipped({"obs.npy": b"x" * 100}, zipfile.ZIP_BZIP2)).reason == "malformed"
    data = bytearray(npz())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    assert problem_of(bytes(data)).value == "encrypted"


def test_zip_comments_and_sizes_after_the_data(decode, npz):
    data = npz()
    commented = data[:-2] + struct.pack("<H", 5) + b"hello"
    assert only(decode(commented)).episode_id == "e1"

    class Unseekable(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError

        def seek(self, *_):
            raise OSError

    stream = Unseekable()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stream, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
    assert same(only(decode(stream.getvalue())), only(decode(data)))


def test_same_name_twice(problem_of, npz):
    file = io.BytesIO(npz())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("obs.npy", b"x")
    assert problem_of(file.getvalue()).reason == "malformed"


def test_unknown_format(problem_of, npz):
    for name in ("e.npy", "e.parquet.gz", "e", "npz", ".npz", "e.npz "):
        assert problem_of(npz(), name).reason == "unknown_format"
    assert problem_of(b"PK", "E.NPZ").reason == "truncated"
