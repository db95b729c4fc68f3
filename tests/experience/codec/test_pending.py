"""Files that are read in step give what each gives alone: the same episode, or the same words about it."""

import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.codec import Limits, decode, decoding, npz, pending
from experience.codec.header_plan import HeaderPlans
from experience.codec.npz_plan import Plans
from experience.errors import InputError
from experience.in_step import in_step
from experience.wire import Message, encode

LIMITS = Limits()


def deposited(seed, n_steps=3, *, meta=None, **others):
    rng = np.random.default_rng(seed)
    header = {"episode_id": f"e{seed}", "client_id": "c", "ended_at": 5.5, "policy_version": 1}
    header |= {"terminated": False, "truncated": True} | (meta or {})
    arrays = {
        "obs": rng.standard_normal((n_steps + 1, 2)).astype(np.float32),
        "action": rng.integers(2, size=n_steps),
        "reward": rng.standard_normal(n_steps),
        "logp": -rng.random(n_steps),
        "meta": np.array(json.dumps(header)),
    }
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in (arrays | others).items() if array is not None})
    return file.getvalue()


def reading(data, number, limits):
    try:
        decoded = yield from decoding(
            data, name=f"{number}.npz", source_sha256=f"{number:064}", ingested_at=0.1 + number, limits=limits
        )
    except InputError as error:
        return error.problem
    return decoded


def frame(decoded):
    return b"".join(encode([Message(job=1, mtime_s=0.0, decoded=decoded)]))


def alone(data, number, limits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npz, "_PLANS", Plans())
        patch.setattr(npz, "_HEADERS", HeaderPlans())
        try:
            return decode(
                data,
                name=f"{number}.npz",
                source_sha256=f"{number:064}",
                ingested_at=0.1 + number,
                limits=limits,
            )
        except InputError as error:
            return error.problem


def both(files, limits=LIMITS, like=()):
    """Assert that files in step are read as each alone, without a plan; how many were made in one pass.

    Those have a plan that are like a usual one, or ``like`` one of these.
    """
    passes = []
    real = pending._in_one_pass

    def noted(some):
        episodes = real(some)
        passes.append(len(episodes or ()))
        return episodes

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(npz, "_PLANS", Plans())
        patch.setattr(npz, "_HEADERS", HeaderPlans())
        patch.setattr(pending, "_in_one_pass", noted)
        for each in (deposited(99), *like):
            in_step([reading(each, 0, limits)])  # a plan is learned
        found = in_step([reading(data, number, limits) for number, data in enumerate(files)])
    for number, (data, one) in enumerate(zip(files, found, strict=True)):
        other = alone(data, number, limits)
        if isinstance(one, type(other)) and hasattr(one, "episodes"):
            assert frame(one) == frame(other)
            assert [e.row_sha256 for e in one.episodes] == [e.row_sha256 for e in other.episodes]
        else:
            assert one == other
    return sum(passes)


GOOD = [deposited(seed, 1 + seed) for seed in range(5)]
ODD = {
    "not a number": deposited(7, reward=np.array([0, np.nan, 0])),
    "infinite": deposited(7, obs=np.full((4, 2), np.inf, np.float32)),
    "beyond float32": deposited(7, obs=np.full((4, 2), 1e300)),
    "too large": deposited(7, obs=np.full((4, 2), 3e38, np.float32)),
    "negative": deposited(7, action=np.array([0, -1, 0])),
    "likely": deposited(7, logp=np.array([0, 0.5, 0])),
    "short reward": deposited(7, reward=np.zeros(2)),
    "long reward": deposited(7, reward=np.zeros(4)),
    "short obs": deposited(7, obs=np.zeros((2, 2), np.float32)),
    "no last obs": deposited(7, obs=np.zeros((3, 2), np.float32)),
    "no last obs, ended": deposited(7, obs=np.zeros((3, 2), np.float32), meta={"terminated": True}),
    "wide obs": deposited(7, obs=np.zeros((4, 3), np.float32)),
    "pictures": deposited(7, obs=np.zeros((4, 2), np.uint8)),
    "other action": deposited(7, action=np.zeros((3, 2), np.float32)),
    "big action": deposited(7, action=np.array([0, 2**40, 0])),
    "column": deposited(7, reward=np.zeros((3, 1))),
    "scalar": deposited(7, reward=np.array(1.0)),
    "order": deposited(7, obs=np.zeros((4, 2), np.float32, order="F")),
    "swapped": deposited(7, reward=np.zeros(3, ">f8")),
    "mask": deposited(7, mask=np.ones((3, 2), bool)),
    "forbidden": deposited(7, mask=np.zeros((3, 2), bool)),
    "versions": deposited(7, policy_version_step=np.array([1, 2, 3])),
    "no id": deposited(7, meta={"episode_id": None}),
    "long id": deposited(7, meta={"episode_id": "x" * 257}),
    "declared": deposited(7, meta={"action_space": {"kind": "discrete", "n": 2, "start": 1}}),
    "no logp": deposited(7, logp=None),
    "no reward": deposited(7, reward=None),
    "extension": deposited(7, meta={"x": 1}),
    "extension, true": deposited(7, meta={"x": True}),
    "cut": deposited(7)[:-50],
    "flipped": deposited(7).replace(b"episode", b"epizode"),
    "empty": b"",
}


def test_files_of_one_kind_are_made_in_one_pass():
    assert both(GOOD) == 5
    assert both([deposited(seed, meta={"terminated": seed % 2 == 0}) for seed in range(6)]) >= 3


@pytest.mark.parametrize("name", ODD)
def test_one_that_is_odd_is_judged_as_alone_and_changes_no_other(name):
    both([*GOOD[:2], ODD[name], *GOOD[2:]])
    both([ODD[name], ODD[name], GOOD[0]])


def test_any_two_that_are_odd():
    for one, other in itertools.combinations(ODD.values(), 2):
        both([GOOD[0], one, other])


def test_lengths_that_make_up_for_each_other():
    """End to end the fields are as long as each other; one by one they are not."""
    short, long = deposited(1, 3, reward=np.zeros(2)), deposited(2, 3, reward=np.zeros(4))
    assert both([short, long]) == 0
    masks = [deposited(n, 3, mask=np.ones((rows, 2), bool)) for n, rows in ((1, 2), (2, 4))]
    assert both(masks) == 0


SPACE = {"action_space": {"kind": "discrete", "n": 2}}
SHAPE = {"observation_shape": [1, 2]}


@pytest.mark.parametrize(
    "files",
    [
        [deposited(1, meta=SPACE), deposited(2, meta=SPACE, action=np.array([0, 5, 0]))],
        [deposited(1, meta=SHAPE), deposited(2, meta=SHAPE)],
        [deposited(1, meta={"x": 1}), deposited(2, meta={"x": True}), deposited(3, meta={"x": 1.0})],
        [deposited(1), deposited(2, meta={"seed": 5}), deposited(3, meta={"tags": ["a"]})],
        [deposited(1, meta={"seed": 5}), deposited(2), deposited(3, meta={"seed": 0})],
    ],
)
def test_headers_that_differ_are_kept_apart(files):
    both(files, like=files)
    both(files[::-1], like=files)


@pytest.mark.parametrize("limit", [100, 150, 200, 300, 400, 1000])
def test_each_has_the_limits_for_itself(limit):
    both(GOOD, Limits(max_decoded_bytes=limit))


def test_each_has_the_limits_for_itself_also_where_numbers_become_wider():
    files = [deposited(seed, 200, action=np.zeros(200, np.int8)) for seed in range(3)]
    passes = [both(files, Limits(max_decoded_bytes=limit), files) for limit in range(5000, 25_000, 400)]
    assert passes[0] == 0
    assert passes[-1] == 3


flips = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4
)


@settings(max_examples=150, deadline=None)
@given(flips=flips)
def test_bits_flipped_at_random(flips):
    files = list(map(bytearray, GOOD))
    for number, where, bit in flips:
        files[number][int(where * len(files[number]))] ^= 1 << bit
    both(list(map(bytes, files)))
