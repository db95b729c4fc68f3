"""Episodes that are checked in one pass are those that one by one would be accepted, and no others."""

from itertools import accumulate

import numpy as np
import pytest

from experience.alike import Alike, Laid
from experience.episode import Episode
from experience.errors import InputError


def laid(*lengths, width=None):
    """Rows of numbers from 0 to 1, so many an episode."""
    size = sum(lengths)
    numbers = np.linspace(0.0, 1.0, size if width is None else size * width)
    return Laid(numbers if width is None else numbers.reshape(size, width), [*accumulate(lengths, initial=0)])


def columns(steps=(2, 1, 3), rows=(3, 1, 4), **common):
    n_steps = sum(steps)
    fields = {
        "obs": laid(*rows, width=2)._replace(values=laid(*rows, width=2).values.astype(np.float32)),
        "action": Laid(np.arange(n_steps) % 2, laid(*steps).offsets),
        "reward": laid(*steps),
    }
    names = [f"e{i}" for i in range(len(steps))]
    common = {"terminated": True, "truncated": False, **common}
    return {"common": common, "varying": {"episode_id": names}, "steps": fields}


def one_by_one(common, varying, steps):
    cut = {name: each.cut() for name, each in steps.items()}
    return [
        Episode(
            **common,
            **{name: values[i] for name, values in varying.items()},
            **{name: arrays[i] for name, arrays in cut.items()},
        )
        for i in range(len(next(iter(cut.values()))))
    ]


def same(some, others):
    for one, other in zip(some, others, strict=True):
        assert one.row_sha256 == other.row_sha256
        for name in Episode.__dataclass_fields__:
            if name not in ("obs", "action", "reward"):
                assert getattr(one, name) == getattr(other, name), name


def test_they_are_those_that_one_by_one_would_be():
    given = columns(started_at=1.23456789, seed=3)
    given["varying"] |= {"ended_at": [2.00000049, -0.0, None], "segment": [0, 1, 2]}
    found = Alike(**given).episodes()
    same(found, one_by_one(**given))
    assert [each.ended_at for each in found] == [2.0, 0.0, None]
    assert not any(each.obs.flags.writeable for each in found)
    assert found[0].norms["reward"] >= max(np.linalg.norm(each.reward) for each in found)


@pytest.mark.parametrize("outcome", [{"terminated": True}, {"terminated": False, "incomplete": True}])
def test_the_last_observation_may_be_left_out_where_there_is_none(outcome):
    given = columns(rows=(2, 1, 3), **outcome)
    same(Alike(**given).episodes(), one_by_one(**given))


@pytest.mark.parametrize(
    "given",
    [
        columns(rows=(2, 2, 4), terminated=False, truncated=True),
        columns(rows=(3, 2, 3), terminated=False, truncated=True),
        columns(rows=(3, 1, 5)),
        columns(rows=(3, 0, 4)),
        columns(steps=(2, 0, 4), rows=(3, 1, 5)),
        columns(steps=(2, 1), rows=(3, 1, 4)),
        columns(seed=1) | {"varying": {"episode_id": ["a", "", "c"]}},
        columns() | {"varying": {"episode_id": ["a", "b", "c"], "segment": [0, -1, 2]}},
        columns() | {"varying": {"episode_id": ["a", "b"]}},
        columns() | {"varying": {"episode_id": ["a", "b", "c"], "seed": [1, 2]}},
        columns() | {"varying": {"episode_id": ["a", "b", "c"], "unknown": [1, 2, 3]}},
        columns() | {"varying": {}},
        columns(episode_id="twice"),
    ],
)
def test_what_one_by_one_would_be_refused_is_refused(given):
    with pytest.raises((InputError, ValueError, TypeError)):
        Alike(**given).episodes()


@pytest.mark.parametrize("field", ["action", "logp", "mask", "policy_version_step"])
def test_steps_of_another_length_in_one_field(field):
    given = columns()
    arrays = {"mask": np.ones((6, 2), bool), "logp": np.full(6, -1.0)}
    values = arrays.get(field, np.zeros(6, np.int64))
    for lengths in ((2, 1, 3), (3, 1, 2), (2, 1, 2), (2, 1, 3, 0), (6,)):
        given["steps"][field] = Laid(values, [*accumulate(lengths, initial=0)])
        if lengths == (2, 1, 3):
            assert len(Alike(**given).episodes()) == 3
        else:
            with pytest.raises((InputError, ValueError)):
                Alike(**given).episodes()


def test_rows_that_belong_to_no_episode():
    for field in ("obs", "action", "reward"):
        given = columns()
        values = given["steps"][field].values
        given["steps"][field] = Laid(np.concatenate([values, values[-1:]]), given["steps"][field].offsets)
        with pytest.raises(InputError):
            Alike(**given).episodes()


@pytest.mark.parametrize("spoil", [("reward", np.nan), ("obs", np.inf), ("action", -1), ("logp", 0.5)])
def test_one_bad_number_spoils_them_all(spoil):
    field, number = spoil
    given = columns()
    given["steps"]["logp"] = Laid(np.full(6, -1.0), given["steps"]["reward"].offsets)
    assert len(Alike(**given).episodes()) == 3
    values = given["steps"][field].values.copy()
    values[4] = number
    given["steps"][field] = given["steps"][field]._replace(values=values)
    with pytest.raises(InputError):
        Alike(**given).episodes()
