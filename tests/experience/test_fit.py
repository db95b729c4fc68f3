"""A file of another space than the policy's is refused with both descriptions."""

from dataclasses import replace

import numpy as np
import pytest

from experience.admission import Rules, Sight, admit
from experience.flattening import flatten
from experience.space_parsing import space_from_json
from experience.spaces import (
    BoxSpace,
    ContinuousSpace,
    DictSpace,
    DiscreteSpace,
    ImageSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
)

SIGHT = Sight(age_s=0.0, staleness=lambda _: 0)
PARTS = DictSpace({"view": ImageSpace(shape=(2, 2, 1)), "word": DiscreteSpace(n=5)})
DIALS = MultiDiscreteSpace(nvec=(3, 2))
IMAGE = ImageSpace(shape=(2, 2, 1))


def rules(observation, action=DIALS):
    return Rules(
        max_age_s=1.0,
        max_staleness=1,
        observation_shape=observation.stored_shape,
        observation=observation,
        action=action,
        n_actions=action.n if isinstance(action, DiscreteSpace) else None,
        action_size=action.size if isinstance(action, ContinuousSpace) else None,
    )


def rows(space, n=4):
    rng = np.random.default_rng(0)
    view, word = rng.integers(0, 256, (n, 2, 2, 1), dtype=np.uint8), rng.integers(0, 5, n)
    obs = {"view": view, "word": word} if space is PARTS else view
    return flatten(space, obs, lead=(n,))


@pytest.fixture
def seen(make_episode):
    def make(space=PARTS, *, declared=None, **fields):
        fields = {"obs": rows(space), "action": np.array([[0, 0], [2, 1], [1, 0]]), **fields}
        said = None if declared is None else declared.to_json()
        return make_episode(observation_space=said, **fields)

    return make


@pytest.mark.parametrize("declared", [PARTS, None])
def test_what_fits_is_admitted(seen, declared):
    assert admit(seen(declared=declared), rules(PARTS), SIGHT) is None
    assert admit(seen(IMAGE, declared=None), rules(IMAGE), SIGHT) is None
    whole = rows(IMAGE).astype(np.float32)
    assert admit(seen(IMAGE, obs=whole), rules(IMAGE), SIGHT) is None


@pytest.mark.parametrize(
    ("theirs", "field"),
    [
        (DictSpace({"view": IMAGE, "word": DiscreteSpace(n=6)}), "observation_space.word"),
        (
            DictSpace({"view": BoxSpace(shape=(2, 2, 1)), "word": DiscreteSpace(n=5)}),
            "observation_space.view",
        ),
        (DictSpace({"sight": IMAGE, "word": DiscreteSpace(n=5)}), "observation_space.sight"),
        (BoxSpace(shape=(5,)), "observation_space"),
    ],
)
def test_another_space_is_refused_with_both(seen, theirs, field):
    problem = admit(seen(declared=theirs), rules(PARTS), SIGHT)
    assert (problem.reason, problem.field) == ("observation_space", field)
    assert problem.value == str(theirs)
    assert problem.accepted == f"the policy's: {PARTS}"


def test_a_dict_is_not_a_box_of_as_many_numbers(seen):
    problem = admit(seen(declared=PARTS), rules(BoxSpace(shape=(5,))), SIGHT)
    assert problem.value == str(PARTS)
    assert problem.accepted == 'the policy\'s: {"kind": "box", "shape": [5]}'


def test_boxes_are_compared_by_shape_alone(make_episode):
    narrow = make_episode(width=3, observation_space={"kind": "box", "shape": [3]})
    wide = rules(BoxSpace(shape=(4,)), DiscreteSpace(n=2))
    assert admit(narrow, wide, SIGHT).reason == "observation_width"
    assert admit(narrow, replace(wide, width="padded"), SIGHT) is None


@pytest.mark.parametrize(
    ("change", "field"), [((0, 0, 0.5), "obs.view"), ((1, 4, 5), "obs.word"), ((2, 4, -1), "obs.word")]
)
def test_undeclared_numbers_that_are_none_of_the_policys_name_the_part(seen, change, field):
    obs = rows(PARTS).astype(np.float32)
    obs[change[0], change[1]] = change[2]
    problem = admit(seen(obs=obs), rules(PARTS), SIGHT)
    assert (problem.reason, problem.field) == ("observation_space", field)
    assert str(PARTS) in problem.accepted


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DIALS, MultiDiscreteSpace(nvec=(3, 3))),
        (DIALS, DiscreteSpace(n=2)),
        (MultiBinarySpace(n=2), MultiDiscreteSpace(nvec=(2, 2))),
        (DiscreteSpace(n=2), DiscreteSpace(n=3)),
        (ContinuousSpace(size=2), DIALS),
    ],
)
def test_another_action_space_is_refused_with_both(seen, ours, theirs):
    problem = admit(seen(action_space=theirs.to_json()), rules(PARTS, ours), SIGHT)
    assert (problem.reason, problem.field) == ("action_space", "action_space")
    assert problem.value == str(theirs)
    assert str(ours) in problem.accepted


@pytest.mark.parametrize(
    ("ours", "action", "value"),
    [
        (DIALS, [[0, 0], [3, 0], [0, 0]], "3 at step 1, choice 0"),
        (MultiBinarySpace(n=2), [[0, 0], [1, 2], [0, 0]], "2 at step 1, choice 1"),
        (DIALS, [0, 0, 0], "shape [3]"),
        (DiscreteSpace(n=3), [[0, 0], [1, 1], [0, 0]], "int64 of shape [3, 2]"),
    ],
)
def test_undeclared_actions_of_another_space(seen, ours, action, value):
    problem = admit(seen(action=np.array(action)), rules(PARTS, ours), SIGHT)
    assert problem.reason == "action_space"
    assert problem.value.startswith(value)


def test_a_mask_that_forbids_a_choice_names_step_and_choice(seen):
    mask = np.ones((3, 5), bool)
    assert admit(seen(mask=mask), rules(PARTS), SIGHT) is None
    mask = np.tile([True, False, True, True, True], (3, 1))
    problem = admit(seen(mask=mask), rules(PARTS), SIGHT)
    assert (problem.reason, problem.field) == ("mask", "mask[2]")
    assert problem.value == "forbids 1 for choice 0, which was taken"
    assert admit(seen(mask=np.ones((3, 4), bool)), rules(PARTS), SIGHT).field == "mask"


def test_one_file_cannot_define_tables_of_gigabytes(seen):
    unknown = Rules(max_age_s=1.0, max_staleness=1)
    many = space_from_json({"kind": "multi_discrete", "nvec": [2**17] * 5})
    episode = seen(declared=many, obs=np.zeros((4, 5), np.float32))
    assert admit(episode, unknown, SIGHT).reason == "observation_space"
    wide = seen(action_space={"kind": "multi_discrete", "nvec": [2**18, 2]})
    assert admit(wide, unknown, SIGHT).reason == "action_space"
    assert admit(seen(), unknown, SIGHT) is None
