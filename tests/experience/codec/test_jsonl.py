import json

import numpy as np
import pytest

from experience.errors import InputError

HEADER = {"episode_id": "e1", "client_id": "bot", "policy_version": 3}
END = {"final_obs": [0.5, 0.5], "terminated": True, "truncated": False}
NAME = "e.jsonl"


def only(decoded):
    (episode,) = decoded.episodes
    assert decoded.problems == ()
    return episode


def test_reads_one_episode(decode, jsonl):
    episode = only(decode(jsonl(), NAME))
    np.testing.assert_array_equal(episode.obs, np.array([[0.25, 1], [0.5, -1.5], [0.5, 0.5]], np.float32))
    np.testing.assert_array_equal(episode.action, [0, 1])
    np.testing.assert_array_equal(episode.reward, [1.0, 0.0])
    np.testing.assert_array_equal(episode.logp, [-0.5, -0.75])
    assert (episode.obs.dtype, episode.action.dtype) == (np.float32, np.int64)
    assert (episode.terminated, episode.truncated, episode.incomplete) == (True, False, False)
    assert (episode.key, episode.policy_version) == (("bot", "e1", 0, ""), 3)


def test_long_episodes_with_numbers_of_both_kinds(decode, jsonl):
    """More steps than one chunk; the first 1000 actions look like integers."""
    actions = [float(i >= 1000) / 2 for i in range(1500)]
    steps = [{"obs": i, "action": [int(a) if a == 0 else a], "reward": 1} for i, a in enumerate(actions)]
    episode = only(decode(jsonl(HEADER, *steps, END | {"final_obs": 0}), NAME))
    np.testing.assert_array_equal(episode.action, np.array(actions, np.float32)[:, None])
    np.testing.assert_array_equal(episode.obs, [*range(1500), 0])


def test_images_and_declared_shapes(decode, jsonl):
    image = [[[1, 2], [3, 4]]]
    lines = [{"episode_id": "x"}, {"obs": image, "action": 0, "reward": 0}, END | {"final_obs": image}]
    assert only(decode(jsonl(*lines), NAME)).obs.shape == (2, 1, 2, 2)
    flat = [
        {"observation_shape": [2, 2]},
        {"obs": [1, 2, 3, 4], "action": 0, "reward": 0},
        END | {"final_obs": [1, 2, 3, 4]},
    ]
    assert only(decode(jsonl(*flat), NAME)).obs.shape == (2, 2, 2)


def test_synonyms_nulls_and_extras(decode, jsonl):
    lines = [
        {"episode_id": "e", "ended_at": None, "ext.a": 1},
        {"state": [1], "actions": 0, "rewards": 1, "logp": None, "t": 0, "info": {}, "episode_id": "e"},
        {"state": [2], "actions": 0, "rewards": 1, "t": 1, "info": {"k": 1}, "done": True, "episode_id": "e"},
        {"last_obs": [3], "terminated": True, "ended_at": "2026-01-01T00:00:00Z", "score": 5},
    ]
    episode = only(decode(jsonl(*lines), NAME))
    assert (episode.episode_id, episode.ended_at, episode.logp) == ("e", 1767225600.0, None)
    assert episode.extensions == {"ext.a": 1, "t": [0, 1], "step_info": [None, {"k": 1}], "score": 5}


def test_versions_of_the_steps(decode, jsonl, steps):
    for step, version in zip(steps, (None, 4), strict=True):
        step["policy_version"] = version
    episode = only(decode(jsonl(HEADER, *steps, END), NAME))
    np.testing.assert_array_equal(episode.policy_version_step, [0, 4])
    assert episode.policy_version == 3


def test_ends(decode, problem_of, jsonl, steps):
    def end(line):
        return only(decode(jsonl(HEADER, *steps, line), NAME))

    assert len(end({"terminated": True}).obs) == 2
    assert end({"obs": [1, 2], "truncated": True}).truncated
    assert end({"done": True}).terminated
    cut = problem_of(jsonl(HEADER, *steps, {"truncated": True}), NAME)
    assert (cut.reason, cut.field, cut.index) == ("missing_field", "final_obs", 0)
    unknown = problem_of(jsonl(HEADER, *steps, {"truncated": False, "final_obs": [1, 2]}), NAME)
    assert (unknown.reason, unknown.field) == ("missing_field", "terminated")


def test_without_an_end_line_it_is_incomplete(decode, jsonl, steps):
    episode = only(decode(jsonl(HEADER, *steps), NAME))
    assert (episode.incomplete, episode.terminated, episode.truncated) == (True, False, False)
    assert len(episode.obs) == 2


def test_many_episodes(decode, jsonl, steps):
    data = jsonl(
        {"client_id": "a"}, *steps, END,
        {"client_id": "b"}, steps[0],
        {"client_id": "c"}, steps[0] | {"obs": [0, "x"]}, *steps, END,
        {"client_id": "d"}, *steps, END,
    )  # fmt: skip
    decoded = decode(data, NAME)
    assert [episode.client_id for episode in decoded.episodes] == ["a", "b", "d"]
    assert [episode.incomplete for episode in decoded.episodes] == [False, True, False]
    assert [episode.episode_id[-2:] for episode in decoded.episodes] == [":0", ":1", ":3"]
    (problem,) = decoded.problems
    assert (problem.index, problem.reason, problem.field) == (2, "bad_dtype", "obs[0]")


def test_a_bad_line_costs_its_episode_only(decode, jsonl):
    good = jsonl()
    for bad in (b"nonsense\n", b"[1]\n", b'{"obs": [1, 2]}\n', b'{"a": 1, "a": 2}\n', b"\xff\n"):
        lines = good.splitlines(keepends=True)
        within = decode(b"".join([*lines[:2], bad, *lines[2:], good]), NAME)
        assert [problem.index for problem in within.problems] == [0]
        as_header = decode(b"".join([good, bad, *lines[1:], good]), NAME)
        assert [problem.index for problem in as_header.problems] == [1]
        assert (len(within.episodes), len(as_header.episodes)) == (1, 2)


def test_steps_after_an_end_without_a_header(decode, jsonl, steps):
    decoded = decode(jsonl(HEADER, *steps, END, *steps, END, HEADER, *steps, END), NAME)
    (problem,) = decoded.problems
    assert (problem.reason, problem.field, problem.index) == ("missing_field", "header", 1)
    assert len(decoded.episodes) == 2


@pytest.mark.parametrize("first", [1, 3])
def test_the_first_line_is_a_header(decode, jsonl, steps, first):
    lines = jsonl().splitlines(keepends=True)[first:]
    with pytest.raises(InputError) as caught:
        decode(b"".join(lines), NAME)
    assert (caught.value.problem.reason, caught.value.problem.field) == ("missing_field", "header")


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"obs": None}, "missing_field", "obs[1]"),
        ({"reward": None}, "missing_field", "reward[1]"),
        ({"action": None}, "missing_field", "action[1]"),
        ({"logp": None}, "missing_field", "logp[1]"),
        ({"mask": [True, True]}, "missing_field", "mask[0]"),
        ({"obs": [1, 2, 3]}, "bad_shape", "obs[1]"),
        ({"obs": [[1], 2]}, "bad_shape", "obs[1]"),
        ({"obs": [1, None]}, "bad_dtype", "obs[1]"),
        ({"obs": {"x": 1}}, "bad_dtype", "obs[1]"),
        ({"obs": [1, 10**40]}, "bad_dtype", "obs[1]"),
        ({"obs": [1, 1e40]}, "not_finite", "obs[1]"),
        ({"obs": [1, "inf"]}, "bad_dtype", "obs[1]"),
        ({"action": "left"}, "bad_dtype", "action[1]"),
        ({"action": -1}, "bad_value", "action"),
        ({"action": [0, 1]}, "bad_shape", "action[1]"),
        ({"reward": [1, 2]}, "bad_shape", "reward[1]"),
        ({"logp": 0.5}, "bad_value", "logp"),
        ({"observations": [1, 2]}, "bad_value", "obs"),
        ({"terminated": True, "truncated": True}, "bad_value", "truncated[1]"),
    ],
)
def test_refusals_name_the_field(problem_of, jsonl, steps, change, reason, field):  # noqa: PLR0917 - a table
    steps[1] |= change
    if field == "truncated[1]":
        del steps[1]["terminated"]
    problem = problem_of(jsonl(HEADER, *steps, END), NAME)
    assert (problem.reason, problem.field, problem.index) == (reason, field, 0)
    assert problem.value
    assert problem.accepted


def test_a_step_flag_needs_its_end_line(decode, problem_of, jsonl, steps):
    steps[1]["terminated"] = True
    assert problem_of(jsonl(HEADER, *steps), NAME).field == "terminated[1]"
    assert only(decode(jsonl(HEADER, *steps, END), NAME)).terminated
    assert problem_of(jsonl(HEADER, *steps, steps[0], END), NAME).field == "terminated[1]"


def test_an_end_line_holds_no_step_fields(problem_of, jsonl, steps):
    assert problem_of(jsonl(HEADER, *steps, END | {"reward": 1}), NAME).field == "reward"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"obs": [NaN, 1], "action": 0, "reward": 0, "logp": -1}', "not_finite"),
        (b'{"obs": [-Infinity, 1], "action": 0, "reward": 0, "logp": -1}', "not_finite"),
        (b'{"obs": [1e999, 1], "action": 0, "reward": 0, "logp": -1}', "not_finite"),
        (b'{"obs": ' + b"[" * 99 + b"]" * 99 + b', "action": 0, "reward": 0}', "too_large"),
        (b'{"obs": ' + b"[" * 100_000 + b', "action": 0, "reward": 0}', "too_large"),
        (b'{"obs": [' + b"1" * 5000 + b', 1], "action": 0, "reward": 0}', "too_large"),
        (b'{"obs": [1, 1], "action": 0, "reward": 0, "reward": 1}', "bad_value"),
        (b'{"obs": [1, 1], "action": 0, "reward": 0, "x": "\\udc00"}', "bad_value"),
        (b"{'obs': [1, 1], 'action': 0, 'reward': 0}", "malformed"),
    ],
)
def test_json_that_is_refused(problem_of, jsonl, line, reason):
    lines = jsonl().splitlines(keepends=True)
    problem = problem_of(b"".join([*lines[:2], line + b"\n", *lines[2:]]), NAME)
    assert (problem.reason, problem.index) == (reason, 0)


def test_brackets_and_digits_in_text_do_not_count(decode, jsonl, steps):
    text = "[" * 50 + '\\" {' + "1" * 100
    assert only(decode(jsonl(HEADER | {"note": text}, *steps, END), NAME)).extensions == {"note": text}


def test_blank_lines_byte_order_mark_and_line_ends(decode, jsonl):
    data = jsonl()
    for variant in (
        b"\xef\xbb\xbf" + data,
        b"\n \n" + data + b"\n\n",
        data.replace(b"\n", b"\r\n"),
        data.rstrip(b"\n"),
    ):
        assert only(decode(variant, NAME)).row_sha256 == only(decode(data, NAME)).row_sha256


def test_limits(decode, problem_of, jsonl, steps):
    many = jsonl(HEADER, *steps, END, HEADER, *steps, END)
    assert len(decode(many, NAME, max_episodes=2).episodes) == 2
    for limits, field in (
        ({"max_episodes": 1}, "episodes"),
        ({"max_decoded_bytes": 100}, "decoded size"),
        ({"max_file_bytes": 100}, "file size"),
    ):
        problem = problem_of(many, NAME, **limits)
        assert (problem.reason, problem.field) == ("too_large", field)
    problem = problem_of(jsonl(), NAME, max_json_depth=1)
    assert (problem.reason, problem.field) == ("too_large", "line 2")


def test_nothing_but_blanks(problem_of):
    for data in (b"", b"\n", b" \n\n"):
        assert problem_of(data, NAME).reason == "truncated"


def test_every_truncation(decode, problem_of, jsonl):
    """Cut within a line: truncated. Cut between lines: a shorter episode that says it is incomplete."""
    data = jsonl()
    whole = only(decode(data, NAME))
    for size in range(len(data)):
        cut = data[:size]
        if not cut.endswith((b"\n", b"}")):
            assert problem_of(cut, NAME).reason == "truncated"
        elif cut.count(b"\n") + cut.endswith(b"}") == 1:
            assert problem_of(cut, NAME).value == "0 steps"
        else:
            episode = only(decode(cut, NAME))
            assert episode.incomplete or episode.row_sha256 == whole.row_sha256


def test_every_flipped_bit_ends_in_a_verdict(decode, jsonl):
    data = jsonl()
    outcomes = {"read": 0, "problem": 0, "refused": 0}
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(bytes(flipped), NAME)
        except InputError:
            outcomes["refused"] += 1
        else:
            assert decoded.episodes or decoded.problems
            outcomes["problem" if decoded.problems else "read"] += 1
    assert all(outcomes.values()), outcomes


def test_text_is_not_interpreted(decode, jsonl, steps):
    header = {"episode_id": "Ünï", "env_id": "环境", "tags": ["é"], "info": {"ü": 1}}
    episode = only(decode(jsonl(header, *steps, END), NAME))
    assert (episode.episode_id, episode.env_id, episode.tags) == ("Ünï", "环境", ("é",))
    assert json.loads(episode.info_json) == {"ü": 1}
