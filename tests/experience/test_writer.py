import json
import subprocess
import sys
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces as gym_spaces

from experience import writer as module
from experience.codec import Limits, decode
from experience.errors import NotYetClosed
from experience.writer import EpisodeWriter

STARTED_AT = 1_767_225_600.0


class Clock:
    """Wall clock that goes on by one second a reading."""

    def __init__(self):
        self.now_s = STARTED_AT

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def writer(spool):
    return EpisodeWriter(spool, client_id="bot-1", env_id="CartPole-v1", clock=Clock())


def read(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def record(writer, steps=3, **more):
    for t in range(steps):
        writer.step([t, 0.5], t % 2, 1.0, **more)


def visible(spool):
    return sorted(path.name for path in (spool / "in").iterdir())


def test_file_holds_what_the_contract_asks_for(writer, spool):
    obs = np.zeros(2)
    for t in range(3):
        obs[:] = (t, -t)
        writer.step(obs, t % 2, 0.5 * t, logp=-0.5, mask=[True, t > 0], policy_version=7)
    obs[:] = 9
    path = writer.end(obs, terminated=False, truncated=True)

    meta, arrays = read(path)
    assert path.parent == spool / "in"
    assert visible(spool) == [path.name]
    assert {name: (array.dtype.str, array.shape) for name, array in arrays.items()} == {
        "obs": ("<f4", (4, 2)),
        "action": ("<i8", (3,)),
        "reward": ("<f8", (3,)),
        "logp": ("<f8", (3,)),
        "mask": ("|b1", (3, 2)),
    }
    assert arrays["obs"].tolist() == [[0, 0], [1, -1], [2, -2], [9, 9]]
    assert arrays["action"].tolist() == [0, 1, 0]
    assert arrays["reward"].tolist() == [0, 0.5, 1]
    assert arrays["mask"].tolist() == [[True, False], [True, True], [True, True]]
    assert uuid.UUID(meta.pop("episode_id")).version == 7
    assert meta == {
        "schema_version": 1,
        "client_id": "bot-1",
        "env_id": "CartPole-v1",
        "segment": 0,
        "policy_version": 7,
        "started_at": "2026-01-01T00:00:01+00:00",
        "ended_at": "2026-01-01T00:00:02+00:00",
        "terminated": False,
        "truncated": True,
    }
    assert datetime.fromisoformat(meta["ended_at"]).utcoffset() == timedelta(0)


def test_daemon_reads_it(writer):
    record(writer, logp=-0.7, policy_version=3)
    path = writer.end([3, 0.5], terminated=True)
    decoded = decode(
        path.read_bytes(), name=path.name, source_sha256="0" * 64, ingested_at=1.0, limits=Limits()
    )
    (episode,) = decoded.episodes
    assert decoded.problems == ()
    assert (episode.client_id, episode.policy_version, episode.terminated) == ("bot-1", 3, True)
    assert episode.obs[:, 0].tolist() == [0, 1, 2, 3]
    assert episode.started_at == STARTED_AT + 1


def test_optional_columns_are_left_out(writer):
    record(writer)
    meta, arrays = read(writer.end(None, terminated=True))
    assert set(arrays) == {"obs", "action", "reward"}
    assert len(arrays["obs"]) == 3
    assert "policy_version" not in meta
    assert "agent_id" not in meta


@pytest.mark.parametrize(
    ("versions", "header", "column"),
    [
        ([None, None], None, None),
        ([0, 0], 0, None),
        ([None, 0], 0, None),
        ([5, 5], 5, None),
        ([5, 6], None, [5, 6]),
        ([None, 6], None, [0, 6]),
    ],
)
def test_versions_go_to_the_header_or_to_the_steps(writer, versions, header, column):
    for version in versions:
        writer.step([0.0], 0, 0.0, policy_version=version)
    meta, arrays = read(writer.end(None, terminated=True))
    assert meta.get("policy_version") == header
    steps = arrays.get("policy_version_step")
    assert (steps if steps is None else steps.tolist()) == column


def test_missing_mask_means_that_all_was_allowed(writer):
    writer.step([0.0], 0, 0.0)
    writer.step([0.0], 0, 0.0, mask=[True, False, False])
    _, arrays = read(writer.end(None, terminated=True))
    assert arrays["mask"].tolist() == [[True, True, True], [True, False, False]]


def test_continuous_actions_are_kept_as_sampled(writer):
    writer.step([0.0], np.array([0.25, -3.5], np.float32), 0.0, logp=1.5)
    writer.step([0.0], [1, 0], 0.0, logp=1.5)
    _, arrays = read(writer.end(None, terminated=True))
    assert arrays["action"].dtype == np.float32
    assert arrays["action"].tolist() == [[0.25, -3.5], [1, 0]]


def test_one_float_is_a_vector_of_one(writer):
    writer.step([0.0], 0.5, 0.0)
    _, arrays = read(writer.end(None, terminated=True))
    assert arrays["action"].tolist() == [[0.5]]


def test_images_stay_bytes(writer):
    image = np.full((2, 2), 200, np.uint8)
    writer.step(image, 0, 0.0)
    image[:] = 0
    _, arrays = read(writer.end(image, terminated=False, truncated=True))
    assert arrays["obs"].dtype == np.uint8
    assert arrays["obs"][:, 0, 0].tolist() == [200, 0]


def test_each_episode_has_its_own_id(writer, spool):
    ids = []
    for _ in range(3):
        record(writer)
        ids.append(read(writer.end(None, terminated=True))[0]["episode_id"])
    assert len(set(ids)) == 3
    assert ids == sorted(ids)
    assert len(visible(spool)) == 3


def test_session_that_never_ends_goes_on_in_segments(writer):
    keys = []
    for continues in (True, True, False, False):
        record(writer)
        meta, _ = read(writer.end([3, 0.5], terminated=False, truncated=True, continues=continues))
        keys.append((meta["episode_id"], meta["segment"]))
    session = keys[0][0]
    assert keys[:3] == [(session, 0), (session, 1), (session, 2)]
    assert keys[3] == (keys[3][0], 0)
    assert keys[3][0] != session


def test_agent_and_action_space_are_noted(spool):
    space = {"kind": "discrete", "n": np.int64(4)}
    writer = EpisodeWriter(spool, client_id="c", agent_id="left", action_space=space)
    record(writer)
    meta, _ = read(writer.end(None, terminated=True))
    assert meta["agent_id"] == "left"
    assert meta["action_space"] == {"kind": "discrete", "n": 4}


def test_gymnasiums_spaces_are_noted_and_what_is_written_counts_from_0(spool):
    writer = EpisodeWriter(
        spool,
        client_id="c",
        observation_space=gym_spaces.Dict(
            {"b": gym_spaces.Discrete(3, start=1), "a": gym_spaces.MultiBinary(2)}
        ),
        action_space=gym_spaces.Discrete(2, start=5),
    )
    writer.step({"a": [1, 0], "b": 3}, 6, 0.0)
    meta, arrays = read(writer.end({"a": [0, 1], "b": 1}, terminated=True))
    assert arrays["obs"].tolist() == [[1, 0, 2], [0, 1, 0]]
    assert arrays["obs"].dtype == np.uint8
    assert arrays["action"].tolist() == [1]
    assert meta["action_space"] == {"kind": "discrete", "n": 2, "start": 5, "from_zero": True}
    assert meta["observation_space"] == {
        "kind": "dict",
        "spaces": {"a": {"kind": "multi_binary", "n": 2}, "b": {"kind": "discrete", "n": 3, "start": 1}},
        "from_zero": True,
    }


def test_a_dict_says_its_own_parts(writer):
    writer.step({"x": [0.5, 1.5], "i": np.full((2, 2, 1), 9, np.uint8)}, 0, 0.0)
    meta, arrays = read(writer.end(None, terminated=True))
    assert arrays["obs"].tolist() == [[9, 9, 9, 9, 0.5, 1.5]]
    assert meta["observation_space"]["spaces"] == {
        "i": {"kind": "image", "shape": [2, 2, 1]},
        "x": {"kind": "box", "shape": [2]},
    }


@pytest.mark.parametrize("action", [[0, 3], [0], [[0, 1]], 1, [0.5, 1.0]])
def test_choices_of_another_space_are_refused(spool, action):
    writer = EpisodeWriter(spool, client_id="c", action_space=gym_spaces.MultiDiscrete([2, 3]))
    writer.step([0.0], [1, 2], 0.0)
    with pytest.raises(ValueError, match="action"):
        writer.step([0.0], action, 0.0)
    _, arrays = read(writer.end([0.0], terminated=True))
    assert arrays["action"].tolist() == [[1, 2]]


def test_a_space_that_is_none_is_refused_at_once(spool):
    for space in ({"kind": "sphere"}, gym_spaces.Text(3), {"kind": "discrete", "n": "2"}):
        with pytest.raises(ValueError, match="accepted"):
            EpisodeWriter(spool, client_id="c", action_space=space)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (([0.0, 0.0], 0, 0.0, {}), r"obs has shape \(2,\), the first step's has \(1,\)"),
        (([0.0], [0.5], 0.0, {}), "an integer"),
        (([0.0], 0, 0.0, {"logp": None}), "on some steps only"),
        (([0.0], 0, 0.0, {"logp": float("nan")}), "logp is nan"),
        (([0.0], 0, 0.0, {"mask": [True]}), r"mask has shape \(1,\); accepted: \(2,\)"),
        (([0.0], 0, 0.0, {"policy_version": -1}), "policy_version is -1"),
        (([0.0], 0, "much", {}), "much"),
    ],
)
def test_step_that_does_not_fit_is_not_recorded(writer, step, message):
    writer.step([0.0], 1, 0.0, logp=-0.1, mask=[True, True])
    obs, action, reward, more = step
    with pytest.raises(ValueError, match=message):
        writer.step(obs, action, reward, **{"logp": -0.1, **more})
    writer.step([0.0], 1, 0.0, logp=-0.1)
    _, arrays = read(writer.end(None, terminated=True))
    assert {len(array) for array in arrays.values()} == {2}


def test_logp_on_a_later_step_only_is_refused(writer):
    writer.step([0.0], 0, 0.0)
    with pytest.raises(ValueError, match="on some steps only"):
        writer.step([0.0], 0, 0.0, logp=-0.1)


@pytest.mark.parametrize("action", [[1], np.array([1, 0]), [[0.5]], "left"])
def test_action_of_no_known_kind_is_refused(writer, action):
    with pytest.raises(ValueError, match="action"):
        writer.step([0.0], action, 0.0)


@pytest.mark.parametrize(
    ("final_obs", "flags"),
    [
        ([0.0], {"terminated": False}),
        ([0.0], {"terminated": True, "continues": True}),
        ([0.0], {"terminated": True, "truncated": True, "continues": True}),
        (None, {"terminated": False, "truncated": True}),
        ([0.0, 1.0], {"terminated": True}),
    ],
)
def test_contradicting_end_is_refused_and_the_episode_kept(writer, spool, final_obs, flags):
    writer.step([0.0], 0, 0.0)
    with pytest.raises(ValueError, match=r"accepted|first step|truncated=True"):
        writer.end(final_obs, **flags)
    assert visible(spool) == []
    writer.step([0.0], 0, 0.0)
    _, arrays = read(writer.end([0.0], terminated=True))
    assert len(arrays["reward"]) == 2


def test_end_without_a_step_is_refused(writer, spool):
    with pytest.raises(NotYetClosed):
        writer.end([0.0], terminated=True)
    record(writer)
    writer.end([0.0, 0.0], terminated=True)
    with pytest.raises(NotYetClosed):
        writer.end([0.0, 0.0], terminated=True)
    assert len(visible(spool)) == 1


@pytest.mark.parametrize("client_id", ["line\nbreak", "x" * 257, 5])
def test_id_that_would_be_refused_is_refused_at_once(spool, client_id):
    with pytest.raises(ValueError, match="client_id is"):
        EpisodeWriter(spool, client_id=client_id)


def test_spool_that_is_a_file_is_named(tmp_path):
    (tmp_path / "spool").write_text("")
    with pytest.raises(OSError, match="spool"):
        EpisodeWriter(tmp_path / "spool", client_id="c")


class BrokenError(OSError):
    """The disk said no."""


def fail(*_args, **_kwargs):
    raise BrokenError


def half_written(file, _arrays):
    file.write(b"PK half of it")
    raise BrokenError


BREAKS = {
    "open": (Path, "open", fail),
    "write": (module, "_write_npz", half_written),
    "rename": (Path, "rename", fail),
}


@pytest.mark.parametrize("where", BREAKS)
def test_failed_write_leaves_nothing_and_can_be_repeated(writer, spool, monkeypatch, where):
    record(writer)
    with monkeypatch.context() as patch:
        patch.setattr(*BREAKS[where])
        with pytest.raises(BrokenError):
            writer.end([9.0, 9.0], terminated=True)
    assert visible(spool) == []
    with pytest.raises(NotYetClosed):
        record(writer)
    meta, arrays = read(writer.end([9.0, 9.0], terminated=True))
    assert arrays["obs"][:, 0].tolist() == [0, 1, 2, 9]
    assert meta["ended_at"] == "2026-01-01T00:00:02+00:00"
    assert len(visible(spool)) == 1


def test_inbox_that_went_away_is_an_error_and_the_episode_is_kept(writer, spool):
    record(writer)
    (spool / "in").rmdir()
    with pytest.raises(FileNotFoundError):
        writer.end(None, terminated=True)
    (spool / "in").mkdir()
    assert len(read(writer.end(None, terminated=True))[1]["reward"]) == 3


def test_abandoned_episode_is_gone(writer, spool):
    record(writer)
    first = writer.episode_id
    writer.abandon()
    assert visible(spool) == []
    record(writer, steps=1)
    meta, arrays = read(writer.end(None, terminated=True))
    assert len(arrays["reward"]) == 1
    assert meta["episode_id"] == writer_id(visible(spool)[0]) != first


def writer_id(name):
    return name.split(".")[0]


KILLED = """
import os, sys
import experience.writer
from experience.writer import EpisodeWriter
from pathlib import Path

writer = EpisodeWriter(sys.argv[1], client_id="c")
writer.step([0.0], 0, 1.0)
if sys.argv[2] == "write":
    def killed(file, arrays):
        file.write(b"PK half of it"); file.flush(); os._exit(9)
    experience.writer._write_npz = killed
else:
    Path.rename = lambda *a: os._exit(9)
writer.end(None, terminated=True)
"""


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_killed_client_leaves_nothing_that_the_daemon_sees(spool, moment):
    result = subprocess.run([sys.executable, "-c", KILLED, str(spool), moment], check=False)
    assert result.returncode == 9
    assert visible(spool)
    assert all(name.startswith(".tmp-") for name in visible(spool))


def test_a_client_may_name_its_episodes_and_add_to_them(tmp_path):
    """Names of files are not made of ids: several agents share one, and it may hold anything."""
    for agent in ("a", "b"):
        writer = EpisodeWriter(tmp_path, client_id="bot", agent_id=agent)
        writer.begin("../match/7", segment=2)
        writer.step([1.0], 0, 0.5)
        writer.add_reward(0, 0.25)
        writer.annotate(seed=3, map="desert")
        with pytest.raises(IndexError, match="step is 1; the episode in progress has 1 steps"):
            writer.add_reward(1, 1.0)
        with pytest.raises(ValueError, match="is in progress"):
            writer.begin("other")
        writer.end(None, terminated=True)
        assert writer.episode_id != "../match/7"
    files = sorted((tmp_path / "in").iterdir())
    found = [
        decode(file.read_bytes(), name=file.name, source_sha256="0" * 64, ingested_at=1.0).episodes[0]
        for file in files
    ]
    assert [(one.episode_id, one.segment, one.agent_id) for one in found] == [
        ("../match/7", 2, agent) for agent in ("a", "b")
    ]
    assert [one.reward.tolist() for one in found] == [[0.75]] * 2
    assert [(one.seed, one.extensions["map"]) for one in found] == [(3, "desert")] * 2
    for bad in ("", "\0", "x" * 10_000):
        with pytest.raises(ValueError, match="accepted"):
            writer.begin(bad)
