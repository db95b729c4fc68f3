"""Several choices at once: against every combination of them written out, and numpy against torch."""

import itertools
import math

import numpy as np
import pytest
import torch

from experience.choices import allowing, choices_problem, mask_problem
from policies.factored import factored_draw, factored_log_prob
from policies.networks import divergence, evaluate
from policies.spec import DiscreteSpace, MultiBinarySpace, MultiDiscreteSpace
from policies.stability import StabilityLimits, collapse

SPACES = [MultiDiscreteSpace(nvec=(3, 1, 2)), MultiBinarySpace(n=3), MultiDiscreteSpace(nvec=(4,))]


def combinations(space):
    """Every action, [M, F]."""
    return np.array(list(itertools.product(*(range(factor) for factor in space.factors))))


def probabilities(space, logits, mask):
    """Of every combination, one row of logits at a time, in plain Python."""
    if isinstance(space, MultiBinarySpace):
        chances = [
            [1 - p, p]
            for p in (1 / (1 + math.exp(-z)) if ok else 0.0 for z, ok in zip(logits, mask, strict=True))
        ]
    else:
        cuts, chances = [0, *itertools.accumulate(space.nvec)], []
        for start, stop in itertools.pairwise(cuts):
            weights = [math.exp(z) * ok for z, ok in zip(logits[start:stop], mask[start:stop], strict=True)]
            chances.append([weight / sum(weights) for weight in weights])
    return [math.prod(c[a] for c, a in zip(chances, action, strict=True)) for action in combinations(space)]


def draws(space, n=6, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, space.outputs)).astype(np.float32)
    mask = rng.random((n, space.outputs)) < 0.7
    action = np.stack([rng.integers(0, factor, n) for factor in space.factors], axis=1)
    return logits, allowing(space, mask, action), action


@pytest.mark.parametrize("space", SPACES)
def test_torch_against_every_combination(space):
    logits, mask, action = draws(space)
    other = logits + np.random.default_rng(9).normal(size=logits.shape).astype(np.float32)
    every = combinations(space)
    found, theirs = (
        evaluate(torch.from_numpy(z), None, torch.from_numpy(action), torch.from_numpy(mask), space)
        for z in (logits, other)
    )
    kl = divergence(found, theirs)
    for i, row in enumerate(logits):
        p, q = probabilities(space, row, mask[i]), probabilities(space, other[i], mask[i])
        taken = int(np.flatnonzero((every == action[i]).all(axis=1))[0])
        assert float(found.logp[i]) == pytest.approx(math.log(p[taken]), abs=1e-5)
        assert float(found.entropy[i]) == pytest.approx(-sum(a * math.log(a) for a in p if a > 0), abs=1e-5)
        assert float(kl[i]) == pytest.approx(
            sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0), abs=1e-5
        )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_numpy_is_torch(space, masked):
    logits, mask, action = draws(space, n=50, seed=1)
    given = (None, None) if not masked else (mask, torch.from_numpy(mask))
    ours = factored_log_prob(logits, space, action, given[0])
    theirs = evaluate(torch.from_numpy(logits), None, torch.from_numpy(action), given[1], space)
    np.testing.assert_allclose(ours, theirs.logp.numpy(), atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_gradients_are_finite_where_the_mask_forbids(space):
    logits, mask, action = draws(space)
    leaf = torch.from_numpy(logits).requires_grad_()
    found = evaluate(leaf, None, torch.from_numpy(action), torch.from_numpy(mask), space)
    (found.logp + found.entropy).sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert not leaf.grad[torch.from_numpy(~mask)].any()


@pytest.mark.parametrize("space", SPACES)
def test_draws_follow_the_probabilities(space):
    logits, mask, _ = draws(space, n=1, seed=2)
    n = 20_000
    drawn, logp = factored_draw(
        np.repeat(logits, n, axis=0), space, np.random.default_rng(0), np.repeat(mask, n, axis=0)
    )
    for action, p in zip(combinations(space), probabilities(space, logits[0], mask[0]), strict=True):
        same = (drawn == action).all(axis=1)
        assert same.mean() == pytest.approx(p, abs=4 * math.sqrt(0.25 / n))
        np.testing.assert_allclose(np.exp(logp[same]), p, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_the_likeliest(space):
    logits, mask, _ = draws(space, n=20, seed=3)
    best, logp = factored_draw(logits, space, None, mask)
    for i in range(20):
        p = probabilities(space, logits[i], mask[i])
        np.testing.assert_array_equal(best[i], combinations(space)[int(np.argmax(p))])
        assert logp[i] == pytest.approx(math.log(max(p)), abs=1e-5)


def test_a_mask_that_forbids_what_was_done_is_told_with_step_and_choice():
    dials, bits = SPACES[0], SPACES[1]
    action = np.array([[0, 0, 1], [2, 0, 0]])
    mask = np.ones((2, 6), bool)
    assert mask_problem(dials, mask, action) is None
    mask[1, 2] = False
    assert mask_problem(dials, mask, action) == ("mask[1]", "forbids 2 for choice 0, which was taken")
    assert mask_problem(bits, ~np.eye(3, dtype=bool), np.eye(3, dtype=int)[[1, 1, 2]]) == (
        "mask[1]",
        "forbids 1 for choice 1, which was taken",
    )
    assert mask_problem(bits, np.zeros((1, 3), bool), np.zeros((1, 3), int)) is None
    assert mask_problem(DiscreteSpace(n=2), ~np.eye(2, dtype=bool), np.array([1, 1])) == (
        "mask[1]",
        "forbids action 1, which was taken",
    )
    assert "6 entries" in mask_problem(dials, mask[:, :5], action)[1]


def test_actions_of_another_space():
    assert choices_problem(SPACES[0], np.array([[2, 0, 1]])) is None
    assert choices_problem(SPACES[0], np.array([[0, 0, 1], [0, 1, 1]])) == "1 at step 1, choice 1"
    assert choices_problem(SPACES[1], np.array([[0, 1, -1]])) == "-1 at step 0, choice 2"
    assert "shape" in choices_problem(SPACES[0], np.array([1, 2]))
    assert "float" in choices_problem(SPACES[0], np.zeros((1, 3)))


@pytest.mark.parametrize("space", SPACES)
def test_wrong_shapes(space):
    logits, mask, action = draws(space)
    with pytest.raises(ValueError, match="actions have shape"):
        factored_log_prob(logits, space, action[:-1])
    with pytest.raises(ValueError, match="mask has shape"):
        factored_log_prob(logits, space, action, mask[:-1])


def test_collapse_is_judged_by_all_choices_together():
    limits = StabilityLimits(min_entropy_fraction=0.5)
    most = math.log(3 * 1 * 2)
    assert collapse(0.51 * most, limits, SPACES[0]) is None
    assert collapse(0.49 * most, limits, SPACES[0]).what == "entropy"
    assert collapse(0.49 * 3 * math.log(2), limits, SPACES[1]) is not None
