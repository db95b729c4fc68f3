"""A plan for headers gives what the long way gives: the same episode, or the same words about one file."""

import functools
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.codec import Limits, decode, npz
from experience.codec.header_plan import LEARNING_COST, MOST_PLANS, HeaderPlans
from experience.errors import InputError
from experience.wire import Message, encode

META = {
    "schema_version": 1,
    "client_id": "bot",
    "env_id": "Game-v0",
    "episode_id": "e-1",
    "segment": 0,
    "seed": 7,
    "started_at": "2026-01-01T00:00:00.25+00:00",
    "ended_at": 1767225601.5,
    "terminated": False,
    "truncated": True,
    "policy_version": 3,
    "tags": ["a", "b"],
    "info": {"score": 1.5},
    "x.pnl": 2,
}
LIMITS = Limits()
TEXT = json.dumps(META)


def deposited(text, **others):
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.random((4, 2)), "action": np.array([0, 1, 1]), "reward": rng.random(3)}
    file = io.BytesIO()
    np.savez(file, meta=np.array(text), **(arrays | others))
    return file.getvalue()


def outcome(data, headers, limits=LIMITS):
    """Everything that reading ``data`` with these plans gives."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(npz, "_HEADERS", headers)
        try:
            decoded = decode(data, name="a.npz", source_sha256="0" * 64, ingested_at=1.0, limits=limits)
        except InputError as error:
            return error.problem
        return b"".join(encode([Message(job=1, mtime_s=0.0, decoded=decoded)]))


@functools.cache
def learned(like):
    headers = HeaderPlans()
    outcome(deposited(like), headers)
    return headers._known


def both(text, like=TEXT, limits=LIMITS, **others):
    """Assert that a plan for headers like ``like`` changes nothing about ``text``; whether it applied."""
    headers = HeaderPlans()
    headers._known = [*learned(like)]
    data = deposited(text, **others)
    planned = outcome(data, headers, limits)
    assert planned == outcome(data, HeaderPlans(), limits)
    return headers.read(text, limits) is not None


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"episode_id": "another", "client_id": "x y", "segment": 12, "seed": 0, "policy_version": 0},
        {"started_at": "2026-03-01T12:00:00+02:00", "ended_at": 0.1},
        {"episode_id": "x" * 256},
        {"episode_id": "{[,:]}"},
    ],
)
def test_other_values_are_planned(change):
    assert both(json.dumps(META | change))


@pytest.mark.parametrize(
    "change",
    [
        {"episode_id": ""},
        {"episode_id": "x" * 257},
        {"episode_id": "é"},
        {"episode_id": 'quote" and \\'},
        {"episode_id": "new\nline"},
        {"episode_id": None},
        {"episode_id": 5},
        {"segment": -1},
        {"segment": 1.0},
        {"segment": 1.5},
        {"segment": 10**18},
        {"segment": 10**30},
        {"segment": True},
        {"seed": -3},
        {"seed": None},
        {"started_at": "2026-01-01T00:00:00"},
        {"started_at": "yesterday"},
        {"started_at": 1.5},
        {"started_at": "yesterday", "ended_at": -1.0},
        {"ended_at": 1e12},
        {"ended_at": 1e-9},
        {"ended_at": 200000000000.5},
        {"ended_at": "2026-01-01T00:00:00Z"},
        {"policy_version": "3"},
        {"policy_version": -1},
        {"terminated": True},
        {"truncated": False},
        {"terminated": None},
        {"done": True},
        {"incomplete": True},
        {"tags": ["c"]},
        {"info": {"score": 2.5}},
        {"x.pnl": 2.0},
        {"action_space": {"kind": "discrete", "n": 2}},
        {"action_space": {"kind": "discrete", "n": 1}},
        {"observation_shape": [2]},
        {"env": "Other"},
    ],
)
def test_other_headers_are_read_the_long_way_or_alike(change):
    both(json.dumps(META | change))
    both(TEXT, json.dumps(META | change))
    both(json.dumps(META | change), json.dumps(META | change))


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("e-1", 'e-1", "seed": 9, "x": "'),
        TEXT.replace('"seed": 7', '"seed": 07'),
        TEXT.replace('"seed": 7', '"seed": 7.0e1'),
        TEXT.replace('"seed": 7', '"seed": \u0667'),
        TEXT.replace("1767225601.5", "1767225601.5e0"),
        TEXT.replace("1767225601.5", "1767225601."),
        TEXT.replace("1767225601.5", "1" * 65 + ".5"),
        TEXT.replace("1767225601.5", "1." + "5" * 65),
        TEXT + " ",
        TEXT + "\n",
        TEXT + "\0",
        TEXT + "x",
        TEXT + "}",
        TEXT[:-1],
        TEXT.replace("Game", "\ud800"),
        TEXT.replace("e-1", "\ud800"),
        TEXT.replace("bot", "b\\u006ft"),
        "",
        "[]",
    ],
)
def test_text_that_only_looks_alike(text):
    both(text)


@pytest.mark.parametrize(
    "like",
    [
        json.dumps({"info": {"episode_id": "e-1"}, "eps_id": "e-1", "terminated": True}),
        json.dumps({"info": "episode_id", "episode_id": "e-1", "terminated": True}),
        json.dumps({"info": [{"seed": 1}], "seed": 1, "terminated": True}),
        '{"info": "\\"seed\\": 1", "\\u0073eed": 1, "terminated": true}',
        '{"x\\"seed": 5, "se\\u0065d": 1, "terminated": true}',
        '{"seed":1,"terminated":true,"ended_at":5}',
        '{"ended_at" : 5.5 , "seed" : 1 , "terminated" : true}',
        '{"seed": 1e2, "started_at": 1.5e3, "terminated": true}',
    ],
)
def test_what_differs_is_the_field_itself(like):
    for old, new in (("e-1", "e-2"), ("1", "2"), ("5", "6")):
        both(like.replace(old, new), like)
        both(like.replace(old, new, 1), like)


def test_arrays_beside_the_header_count():
    for others in (
        {"terminated": np.True_},
        {"seed": np.array(8)},
        {"final_obs": np.zeros(2)},
        {"logp": -np.ones(3)},
        {"rewards": np.zeros(3)},
        {"obs.a": np.zeros((4, 2))},
    ):
        both(TEXT, **others)
        both(TEXT.replace("e-1", "e-2"), **others)


@pytest.mark.parametrize(
    "limits", [Limits(max_json_depth=1), Limits(max_number_characters=5), Limits(max_decoded_bytes=100)]
)
def test_limits_hold(limits):
    assert not both(TEXT, limits=limits)
    assert isinstance(outcome(deposited(TEXT), HeaderPlans(), limits), type(outcome(b"", HeaderPlans())))


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 3),
        st.text(st.characters(max_codepoint=255) | st.sampled_from('"\\{}[]:,0159.eE- '), max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(changes=edits)
def test_edited_at_random(changes):
    text = TEXT
    for where, n_cut, put in changes:
        at = int(where * len(text))
        text = text[:at] + put + text[at + n_cut :]
    both(text)


def test_every_character_changed():
    for at in range(len(TEXT)):
        for put in '"\\0, '[at % 5 :: 5]:
            both(TEXT[:at] + put + TEXT[at + 1 :])


@pytest.mark.parametrize("most", [32, 33])
def test_where_numbers_have_to_be_short_there_is_no_plan(most):
    headers, limits = HeaderPlans(), Limits(max_number_characters=most)
    outcome(deposited(TEXT), headers, limits)
    assert len(headers._known) == (most == 33)
    long = TEXT.replace("1767225601.5", "123456789012345." + "5" * 17)
    assert outcome(deposited(long), headers, limits) == outcome(deposited(long), HeaderPlans(), limits)


def test_few_plans_are_made():
    headers, read = HeaderPlans(), 0
    for number in range(4 * LEARNING_COST):
        text = TEXT.replace("Game", f"Game{number}")
        read += headers.read(text, LIMITS) is not None
        headers.learn(text, json.loads(text), {"terminated": False, "truncated": True}, LIMITS)
    assert read == 0
    assert headers.read(text.replace("bot", "other"), LIMITS) is None
    for _ in range(LEARNING_COST):
        headers.read("", LIMITS)
    headers.learn(text, json.loads(text), {"terminated": False, "truncated": True}, LIMITS)
    assert headers.read(text.replace("bot", "other"), LIMITS)["client_id"] == "other"
    assert len(headers._known) <= MOST_PLANS


def test_long_headers_are_not_planned_for():
    """A plan for one of some megabytes took more time and memory than the decoder has for a file."""
    text, headers = json.dumps({**META, "x.note": "y" * 5000}), HeaderPlans()
    assert outcome(deposited(text), headers) == outcome(deposited(text), HeaderPlans())
    assert headers._known == []
