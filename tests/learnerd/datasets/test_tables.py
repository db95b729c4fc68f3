import numpy as np
import pytest

from experience.errors import InputError
from learnerd.datasets import Losses, format_of


def episodes(make_episode):
    rng = np.random.default_rng(0)
    return [
        make_episode(seed=1, width=3, mask=np.array([[True, False]] * 3), action=np.zeros(3, np.int64)),
        make_episode("e2", seed=2, width=3, segment=4, agent_id="left", terminated=False, truncated=True),
        make_episode("e2", seed=2, width=3, logp=None, policy_version_step=np.array([1, 2, 2])),
        make_episode(
            "e3", seed=3, width=3, obs=rng.normal(size=(3, 3)).astype(np.float32), policy_version=None
        ),
    ]


def alike(found, expected):
    assert found.key == expected.key
    for name in ("obs", "action", "reward", "logp", "mask", "policy_version_step"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    for name in ("terminated", "truncated"):
        assert getattr(found, name) == getattr(expected, name), name
    if expected.policy_version_step is None:
        assert found.policy_version == expected.policy_version


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("continuous", [False, True])
def test_what_is_written_reads_back_as_it_was(tmp_path, make_episode, kind, continuous):
    given = episodes(make_episode)
    if continuous:
        given = [
            make_episode(
                action=np.array([[0.1, 1.0], [2.0, 3.0], [-1.0, 0.0]], np.float32), logp=np.zeros(3)
            ),
            make_episode("e2", action=np.array([[1.0, 1.0]] * 3, np.float32)),
        ]
    target, losses = str(tmp_path / f"t.{kind}"), Losses()
    assert format_of(kind).write(given, target) == len(given)
    for one in given:
        format_of(kind).lost(one, losses)
    found = list(format_of(kind).read(target, losses, {}))
    for one, other in zip(found, given, strict=True):
        alike(one, other)
    assert str(losses) == ""


def test_bytes_stay_bytes_in_parquet(tmp_path, make_episode):
    image = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    losses = Losses()
    format_of("parquet").write([make_episode(obs=image)], str(tmp_path / "t.parquet"))
    format_of("parquet").lost(make_episode(obs=image), losses)
    (found,) = format_of("parquet").read(str(tmp_path / "t.parquet"), losses, {})
    np.testing.assert_array_equal(found.obs, image.reshape(4, 12))
    assert found.obs.dtype == np.uint8
    assert str(losses) == "the shape of observations (1 episode)"


def test_a_log_of_decisions_with_names_of_its_own(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("day,price,side,profit,done\nmon,1.5,0,0.1,0\nmon,1.25,1,-0.5,1\ntue,2,1,1,1\n")
    losses = Losses()
    names = {"episode_id": "day", "obs": "price", "action": "side", "reward": "profit", "terminated": "done"}
    monday, tuesday = format_of("csv").read(str(path), losses, names)
    assert (monday.episode_id, monday.obs.tolist(), monday.action.tolist()) == (
        "mon",
        [[1.5], [1.25]],
        [0, 1],
    )
    assert (monday.reward.tolist(), monday.terminated, monday.truncated) == ([0.1, -0.5], True, False)
    assert tuesday.obs.dtype == np.float32


def test_rows_without_an_episode_are_episodes_of_one_step(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("obs.1,obs.0,action,reward,logp\n2,1,0,0,-0.5\n4,3,2,1,-1.5\n")
    first, second = format_of("csv").read(str(path), Losses(), {})
    assert (first.obs.tolist(), second.obs.tolist()) == ([[1.0, 2.0]], [[3.0, 4.0]])
    assert second.logp.tolist() == [-1.5]
    assert first.terminated
    assert first.episode_id != second.episode_id


def test_a_cut_episode_without_its_last_observation_loses_a_step(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("episode_id,obs,action,reward,terminated,truncated\na,1,0,1,0,0\na,2,1,5,0,1\n")
    losses = Losses()
    (found,) = format_of("csv").read(str(path), losses, {})
    assert (found.obs.tolist(), found.reward.tolist(), found.truncated) == ([[1.0], [2.0]], [1.0], True)
    assert "the last step" in str(losses)


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("obs,reward\n1,2\n", {}, "column action"),
        ("obs,action,reward\n1,0,2\n", {"logp": "lp"}, "column lp"),
        ("obs,action,reward\nx,0,2\n", {}, "column obs.*numbers"),
        ("episode_id,obs,action,reward\na,1,0,2\n", {}, "column terminated"),
        ("obs,action,reward\n1,0,2\n1,,2\n", {}, "row 0, action"),
        ("obs,action,reward\n1,0,2\n,0,2\n", {}, "obs"),
        ("obs.a,action,reward\n1,0,2\n", {}, "number after the dot"),
    ],
)
def test_a_table_that_is_none_is_refused_with_the_column(tmp_path, text, names, message):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(format_of("csv").read(str(path), Losses(), names))
