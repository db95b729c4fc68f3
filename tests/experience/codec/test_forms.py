"""Every form of file says the same of every feature: one episode, written five ways, is one row."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experience import EpisodeWriter, codec
from experience.errors import InputError
from experience.flattening import flatten
from experience.rows import Row, StepTypes, from_table, to_table
from experience.space_parsing import counts_from_zero, space_from_json, space_of_rows

T = 3
RNG = np.random.default_rng(0)
BOX = {"kind": "box", "shape": [2]}
IMAGE = {"kind": "image", "shape": [3, 4, 2]}
DICT = {
    "kind": "dict",
    "spaces": {
        "view": IMAGE,
        "arm": {"kind": "tuple", "spaces": [{"kind": "discrete", "n": 3, "start": -1}, BOX]},
        "on": {"kind": "multi_binary", "n": 2},
    },
}


def vector():
    return RNG.normal(size=2).astype(np.float32)


def image():
    return RNG.integers(0, 256, (3, 4, 2), dtype=np.uint8)


def parts():
    return {"view": image(), "arm": (int(RNG.integers(-1, 2)), vector()), "on": RNG.integers(0, 2, 2)}


OBSERVATIONS = {
    "undeclared": (None, vector),
    "box": (BOX, vector),
    "image": (IMAGE, image),
    "index": ({"kind": "discrete", "n": 9, "start": 4}, lambda: int(RNG.integers(4, 13))),
    "indices": ({"kind": "multi_discrete", "nvec": [2, 300]}, lambda: RNG.integers(0, [2, 300])),
    "dict": (DICT, parts),
    "tuple": (DICT["spaces"]["arm"], lambda: parts()["arm"]),
}
ACTIONS = {
    "undeclared": (None, lambda: int(RNG.integers(3)), 3),
    "discrete": ({"kind": "discrete", "n": 3}, lambda: int(RNG.integers(3)), 3),
    "discrete from 5": ({"kind": "discrete", "n": 3, "start": 5}, lambda: int(RNG.integers(5, 8)), 3),
    "several": ({"kind": "multi_discrete", "nvec": [3, 2]}, lambda: RNG.integers(0, [3, 2]), 5),
    "binary": ({"kind": "multi_binary", "n": 3}, lambda: RNG.integers(0, 2, 3), 3),
    "continuous": ({"kind": "continuous", "shape": [2]}, vector, None),
}
EXTRAS = {
    "plain": {},
    "segment": {"segment": 2},
    "agent": {"agent_id": "left"},
    "versions": {"versions": [3, 0, 4]},
    "mask": {"mask": True},
    "everything": {"segment": 1, "agent_id": "right", "versions": [1, 1, 2], "mask": True},
}


class Told:
    """What the client knows of an episode."""

    def __init__(self, observation, action, extra):
        self.space, observe = OBSERVATIONS[observation]
        self.action_space, act, logits = ACTIONS[action]
        self.obs = [observe() for _ in range(T + 1)]
        self.action = [act() for _ in range(T)]
        self.reward = [0.5, -1.0, 2.0]
        self.logp = [-0.5, -0.25, -1.0]
        masked = extra.get("mask") and logits
        self.mask = np.ones((T, logits), bool) if masked else None
        self.versions = extra.get("versions")
        self.header = {"episode_id": "e1", "client_id": "bot"}
        self.header |= {key: extra[key] for key in ("segment", "agent_id") if key in extra}
        self.header |= {} if self.space is None else {"observation_space": self.space}
        self.header |= {} if self.action_space is None else {"action_space": self.action_space}

    def steps(self):
        """Plain JSON, one a step."""
        for i in range(T):
            step = {"obs": plain(self.obs[i]), "action": plain(self.action[i])}
            step |= {"reward": self.reward[i], "logp": self.logp[i]}
            if self.mask is not None:
                step["mask"] = self.mask[i].tolist()
            if self.versions is not None:
                step["policy_version"] = self.versions[i]
            yield step

    def arrays(self):
        """Arrays, observations part by part where they have any."""
        found = {
            "action": np.array(self.action),
            "reward": np.array(self.reward),
            "logp": np.array(self.logp),
        }
        found |= {f"obs{path}": np.stack(column) for path, column in columns(self.obs).items()}
        if self.mask is not None:
            found["mask"] = self.mask
        if self.versions is not None:
            found["policy_version_step"] = np.array(self.versions)
        return found


def plain(value):
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def columns(observations, path=""):
    first = observations[0]
    if not isinstance(first, dict | tuple):
        return {path: [np.asarray(obs) for obs in observations]}
    found = {}
    for key in first if isinstance(first, dict) else range(len(first)):
        found |= columns([obs[key] for obs in observations], f"{path}.{key}")
    return found


def as_jsonl(told):
    end = {"final_obs": plain(told.obs[-1]), "terminated": False, "truncated": True}
    lines = [told.header, *told.steps(), end]
    return "e.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode()


def as_npz(told):
    file = io.BytesIO()
    np.savez(file, **told.arrays(), meta=json.dumps(told.header | {"terminated": False, "truncated": True}))
    return "e.npz", file.getvalue()


def table_of(told):
    rows = {name: [array.tolist()] for name, array in told.arrays().items()}
    rows |= {
        name: [json.dumps(value) if isinstance(value, dict) else value] for name, value in told.header.items()
    }
    return pa.table(rows | {"terminated": [False], "truncated": [True]})


def as_parquet(told):
    sink = pa.BufferOutputStream()
    pq.write_table(table_of(told), sink)
    return "e.parquet", sink.getvalue().to_pybytes()


def as_arrow(told):
    sink, table = pa.BufferOutputStream(), table_of(told)
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return "e.arrow", sink.getvalue().to_pybytes()


def as_written(told, folder):
    writer = EpisodeWriter(
        folder,
        client_id="bot",
        agent_id=told.header.get("agent_id", ""),
        observation_space=told.space,
        action_space=told.action_space,
    )
    writer.begin("e1", segment=told.header.get("segment", 0))
    for i in range(T):
        writer.step(
            told.obs[i],
            told.action[i],
            told.reward[i],
            logp=told.logp[i],
            mask=None if told.mask is None else told.mask[i],
            policy_version=None if told.versions is None else told.versions[i],
        )
    path = writer.end(told.obs[-1], terminated=False, truncated=True)
    return path.name, path.read_bytes()


def read(name, data):
    decoded = codec.decode(data, name=name, source_sha256="s", ingested_at=0.0)
    assert decoded.problems == ()
    (episode,) = decoded.episodes
    return episode


FORMS = {"jsonl": as_jsonl, "npz": as_npz, "parquet": as_parquet, "arrow": as_arrow}


def check(told, folder):
    """One row, whatever the form; and that row is what was told."""
    written = read(*as_written(told, folder))
    for form, write in FORMS.items():
        episode = read(*write(told))
        assert episode.key == written.key
        for name in ("obs", "action", "reward", "logp", "mask", "policy_version_step"):
            ours, theirs = getattr(episode, name), getattr(written, name)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{form} {name}")
            if ours is not None and told.space is not None:
                assert ours.dtype == theirs.dtype, (form, name)
        assert episode.observation_space == written.observation_space, form
        assert episode.action_space == written.action_space, form
    if told.space is not None:
        space = space_from_json(told.space)
        np.testing.assert_array_equal(written.obs, [flatten(space, obs) for obs in told.obs])
        assert space_of_rows(written.observation_space) == space
        assert counts_from_zero(written.observation_space) == ("start" in json.dumps(told.space))
    assert written.segment == told.header.get("segment", 0)
    assert written.agent_id == told.header.get("agent_id", "")
    versions = None if told.versions is None else np.array(told.versions)
    np.testing.assert_array_equal(written.policy_version_step, versions)
    start = (told.action_space or {}).get("start", 0)
    np.testing.assert_array_equal(written.action, np.array(told.action) - start)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_observation(tmp_path, observation):
    check(Told(observation, "discrete", EXTRAS["everything"]), tmp_path)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action(tmp_path, action):
    check(Told("box", action, EXTRAS["everything"]), tmp_path)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("observation", ["undeclared", "dict"])
def test_every_feature(tmp_path, extra, observation):
    check(Told(observation, "several", EXTRAS[extra]), tmp_path)


def test_several_agents_in_one_file():
    told = [Told("dict", "several", {"agent_id": name, "segment": 3}) for name in ("left", "right", "")]
    jsonl = b"".join(as_jsonl(each)[1] for each in told)
    tables = pa.concat_tables([table_of(each) for each in told], promote_options="default")
    sink = pa.BufferOutputStream()
    pq.write_table(tables, sink)
    for name, data in (("e.jsonl", jsonl), ("e.parquet", sink.getvalue().to_pybytes())):
        decoded = codec.decode(data, name=name, source_sha256="s", ingested_at=0.0)
        assert decoded.problems == ()
        assert [(e.agent_id, e.segment) for e in decoded.episodes] == [("left", 3), ("right", 3), ("", 3)]
        for episode, each in zip(decoded.episodes, told, strict=True):
            space = space_from_json(DICT)
            np.testing.assert_array_equal(episode.obs, [flatten(space, obs) for obs in each.obs])


def test_a_row_of_ours_is_read_again_as_it_is():

    episodes = [
        read(*as_jsonl(Told(name, "discrete from 5", {}))) for name in ("dict", "index", "undeclared")
    ]
    table = to_table([Row(episode=e) for e in episodes], StepTypes.of(episodes), with_verdict=False)
    again = [row.episode for row in from_table(table)]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    decoded = codec.decode(
        sink.getvalue().to_pybytes(), name="shard.parquet", source_sha256="s", ingested_at=0.0
    )
    assert decoded.problems == ()
    for first, second, third in zip(episodes, again, decoded.episodes, strict=True):
        assert first.row_sha256 == second.row_sha256 == third.row_sha256
        assert first.observation_space == second.observation_space == third.observation_space
        assert first.action_space == second.action_space == third.action_space


def test_a_shard_of_an_earlier_release_has_no_such_column():

    episode = read(*as_jsonl(Told("undeclared", "discrete", {})))
    table = to_table([Row(episode=episode)], StepTypes.of([episode]), with_verdict=False)
    (row,) = from_table(table.drop_columns(["observation_space"]))
    assert row.episode.row_sha256 == episode.row_sha256
    assert row.episode.observation_space is None


def test_an_undeclared_dict_says_its_own_parts():
    told = Told("dict", "discrete", {})
    del told.header["observation_space"]
    box = {"kind": "box", "shape": [3, 4, 2]}
    for write, view in ((as_jsonl, box), (as_npz, IMAGE)):
        episode = read(*write(told))
        assert episode.observation_space["spaces"]["view"] == view
        assert episode.observation_space["spaces"]["arm"] == {
            "kind": "tuple",
            "spaces": [{"kind": "box", "shape": []}, BOX],
        }
        assert episode.obs.shape == (T + 1, 3 + 2 + 24)


def bad(form, told, **changes):
    """The problem with a file of ``told`` with some of it changed."""
    for name, value in changes.items():
        setattr(told, name, value)
    name, data = FORMS[form](told)
    try:
        (problem,) = codec.decode(data, name=name, source_sha256="s", ingested_at=0.0).problems
    except InputError as error:
        problem = error.problem
    return problem


@pytest.mark.parametrize("form", FORMS)
def test_what_does_not_fit_its_declared_space_is_refused_by_part(form):
    told = Told("dict", "several", {"mask": True})
    told.obs[2] = told.obs[2] | {"arm": (2, told.obs[2]["arm"][1])}
    problem = bad(form, told)
    assert problem.reason == "bad_value"
    assert problem.field.endswith("arm.0")
    assert problem.value == "2"
    assert '"n": 3, "start": -1' in problem.accepted


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_that_forbids_a_choice_is_refused_with_step_and_choice(form):
    told = Told("box", "several", {"mask": True})
    told.action[1] = np.array([2, 1])
    told.mask[1, 4] = False
    problem = bad(form, told)
    assert (problem.field, problem.value) == ("mask[1]", "forbids 1 for choice 1, which was taken")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("header", "field"),
    [
        ({"observation_space": {"kind": "sphere"}}, "observation_space"),
        ({"observation_space": {"kind": "box", "shape": [3]}}, "obs"),
        ({"observation_shape": [3]}, "observation_shape"),
        ({"action_space": {"kind": "multi_discrete", "nvec": [1, 2]}}, "action"),
        ({"action_space": {"kind": "multi_binary", "n": 2, "x": 1}}, "action_space"),
    ],
)
def test_headers_that_do_not_fit(form, header, field):
    told = Told("box", "several", {})
    told.action = [np.array([2, 1])] * T
    told.header |= header
    problem = bad(form, told)
    assert problem.field == field
    assert problem.accepted


def test_a_missing_part_is_named():
    told = Told("dict", "discrete", {})
    arrays = told.arrays()
    del arrays["obs.on"]
    file = io.BytesIO()
    np.savez(file, **arrays, meta=json.dumps(told.header | {"truncated": True}))
    with pytest.raises(InputError) as caught:
        codec.decode(file.getvalue(), name="e.npz", source_sha256="s", ingested_at=0.0)
    assert caught.value.problem.reason == "missing_field"
    assert "'on'" in caught.value.problem.accepted


def test_final_parts_stand_apart():
    told = Told("dict", "discrete", {})
    arrays = told.arrays()
    for name in [name for name in arrays if name.startswith("obs")]:
        arrays[f"final_{name}"] = arrays[name][-1]
        arrays[name] = arrays[name][:-1]
    file = io.BytesIO()
    np.savez(file, **arrays, meta=json.dumps(told.header | {"terminated": False, "truncated": True}))
    np.testing.assert_array_equal(read("e.npz", file.getvalue()).obs, read(*as_npz(told)).obs)


@pytest.mark.parametrize("form", ["npz", "parquet", "arrow"])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"obs": np.zeros((T + 1, 2))}, "obs"),
        ({"final_obs": np.zeros(2)}, "final_obs"),
        ({"final_obs.on": np.zeros(2)}, "final_obs"),
        ({"obs.on": None}, "obs"),
        ({"obs.more": np.zeros(T + 1)}, "obs"),
        ({"obs.on": np.zeros((T + 1, 3))}, "obs.on"),
        ({"obs.on": np.zeros((T, 2))}, "obs.on"),
        ({"obs.arm.1": np.full((T + 1, 2), 1e39)}, "obs[0]"),
    ],
)
def test_parts_that_do_not_fit_together(form, changes, field):
    told = Told("dict", "discrete", {})
    arrays = {name: array for name, array in (told.arrays() | changes).items() if array is not None}
    told.arrays = lambda: arrays
    assert bad(form, told).field == field


def test_final_parts_alone():
    told = Told("box", "discrete", {})
    arrays = told.arrays() | {"final_obs.x": np.zeros(2)}
    told.arrays = lambda: arrays
    assert bad("npz", told).field == "final_obs.x" or bad("npz", told).reason == "bad_value"


@pytest.mark.parametrize(
    "obs",
    [
        {"a": 1e39},
        {"a": 10**30},
        {"a": "x"},
        {"a": None},
        {"a": []},
        {},
        {"": 1},
        {"a.b": 1},
        {"a": {}},
        {str(i): 0.5 for i in range(300)},
        [{"a": 1}, {}],
    ],
)
def test_nested_json_that_is_no_observation(obs):
    told = Told("box", "discrete", {})
    del told.header["observation_space"]
    told.obs = [obs] * (T + 1)
    problem = bad("jsonl", told)
    assert problem.reason in {"bad_value", "bad_shape", "not_finite"}
    assert problem.accepted
