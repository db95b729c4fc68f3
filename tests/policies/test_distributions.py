import math

import numpy as np
import pytest
import torch

from policies.distributions import (
    DiagonalGaussian,
    categorical_entropy,
    categorical_log_prob,
    categorical_log_probs,
    categorical_sample,
    draw_categorical,
    gaussian_entropy,
    gaussian_log_prob,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (200, 5)).astype(np.float32)
MASK = (RNG.random((200, 5)) < 0.6) | (np.arange(5) == 2)


def softmax_by_hand(logits, allowed):
    weights = [math.exp(logit) if ok else 0.0 for logit, ok in zip(logits, allowed, strict=True)]
    return [weight / math.fsum(weights) for weight in weights]


@pytest.mark.parametrize("mask", [None, MASK])
def test_log_probabilities_against_plain_python(mask):
    log_probs = categorical_log_probs(LOGITS, mask)
    allowed = np.ones_like(MASK) if mask is None else mask
    expected = [softmax_by_hand(*row) for row in zip(LOGITS.tolist(), allowed.tolist(), strict=True)]
    assert log_probs.dtype == np.float64
    np.testing.assert_allclose(np.exp(log_probs), expected, rtol=1e-13, atol=0)
    assert (np.isneginf(log_probs) == ~allowed).all()


def test_log_probabilities_equal_torch():
    ours = categorical_log_prob(LOGITS, np.arange(200) % 5)
    theirs = torch.distributions.Categorical(logits=torch.from_numpy(LOGITS))
    expected = theirs.log_prob(torch.arange(200) % 5).numpy()
    np.testing.assert_allclose(ours, expected, rtol=2e-7, atol=5e-7)
    np.testing.assert_allclose(categorical_entropy(LOGITS), theirs.entropy().numpy(), rtol=0, atol=5e-7)


def test_known_values():
    logits = np.array([[0.0, math.log(3.0)]])
    assert categorical_log_prob(logits, np.array([1]))[0] == pytest.approx(math.log(0.75), abs=1e-15)
    assert categorical_entropy(np.zeros((1, 4)))[0] == pytest.approx(math.log(4), abs=1e-15)
    masked = categorical_entropy(np.zeros((1, 4)), np.array([[True, False, True, False]]))
    assert masked[0] == pytest.approx(math.log(2), abs=1e-15)
    mean, log_std = np.array([[1.0, -1.0]]), np.array([0.0, math.log(2.0)])
    expected = -0.5 * (4.0 + 0.25) - math.log(2.0) - math.log(2 * math.pi)
    assert gaussian_log_prob(mean, log_std, np.array([[3.0, -2.0]]))[0] == pytest.approx(expected, abs=1e-14)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)
    assert categorical_log_probs(logits).tolist() == [[0.0, -1e4], [-math.log(2), -math.log(2)]]
    assert categorical_entropy(logits)[0] == 0.0


def test_gaussian_equals_torch():
    mean = RNG.normal(0, 2, (200, 3)).astype(np.float32)
    log_std = np.array([-1.0, 0.0, 0.7], np.float32)
    action = (mean + RNG.normal(0, 1, (200, 3))).astype(np.float32)
    std = torch.from_numpy(log_std).double().exp()
    theirs = torch.distributions.Normal(torch.from_numpy(mean).double(), std)
    expected = theirs.log_prob(torch.from_numpy(action).double()).sum(-1).numpy()
    np.testing.assert_allclose(gaussian_log_prob(mean, log_std, action), expected, rtol=1e-12, atol=1e-12)
    entropy = theirs.entropy().sum(-1)[0].item()
    assert gaussian_entropy(log_std) == pytest.approx(entropy, abs=1e-12)


def test_single_gaussian_gives_the_density_of_what_it_drew():
    log_std = np.array([-1.0, 0.7], np.float32)
    gaussian = DiagonalGaussian(log_std)
    rng = np.random.default_rng(0)
    for _ in range(100):
        mean = rng.normal(0, 2, 2).astype(np.float32)
        action, log_prob = gaussian.draw(mean, rng)
        expected = gaussian_log_prob(mean[None], log_std, action[None])[0]
        assert log_prob == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mask", [None, MASK])
def test_single_draw_agrees_with_the_batch(mask):
    log_probs = categorical_log_probs(LOGITS, mask)
    rng = np.random.default_rng(1)
    for i, logits in enumerate(LOGITS.tolist()):
        allowed = [True] * 5 if mask is None else mask[i].tolist()
        uniform = rng.random()
        masked = [logit if ok else -math.inf for logit, ok in zip(logits, allowed, strict=True)]
        action, log_prob = draw_categorical(masked, uniform)
        assert log_prob == pytest.approx(log_probs[i, action], abs=1e-13)
        below = math.fsum(softmax_by_hand(logits, allowed)[:action])
        assert below <= uniform + 1e-12
        assert uniform < below + math.exp(log_prob) + 1e-12


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_what_is_not_allowed_is_never_drawn(uniform):
    inf = math.inf
    for logits in (
        [-inf, 0.0, -inf],
        [-inf, 1e-3, -1e-3, -inf],
        [-inf, 0.1, 0.7, -0.3, -inf],
        [-1e4, 3.0, -1e4],
    ):
        action, log_prob = draw_categorical(logits, uniform)
        assert logits[action] > -5
        assert log_prob <= 0


def test_batch_sampling_has_the_probabilities():
    logits = np.tile(np.array([[0.0, 1.0, -1.0, 2.0]], np.float32), (20_000, 1))
    mask = np.tile(np.array([[True, True, True, False]]), (20_000, 1))
    counts = np.bincount(categorical_sample(logits, np.random.default_rng(3), mask), minlength=4)
    expected = 20_000 * np.array(softmax_by_hand([0.0, 1.0, -1.0, 2.0], [True, True, True, False]))
    assert counts[3] == 0
    assert ((counts - expected)[:3] ** 2 / expected[:3]).sum() < 18.4  # chi-square, 2 degrees, 1e-4


def test_batch_sampling_at_the_upper_edge():
    class Edge:
        def random(self, n):
            return np.full(n, 1 - 2**-53)

    logits = RNG.normal(0, 1, (500, 3))
    action = categorical_sample(logits, Edge(), np.tile([[True, True, False]], (500, 1)))
    assert action.max() == 1


@pytest.mark.parametrize(
    "logits", [[math.nan, 0.0], [0.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0]]
)
def test_logits_that_are_no_numbers(logits):
    with pytest.raises(ValueError, match="logits are"):
        draw_categorical(logits, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: categorical_log_probs(LOGITS[0]), r"accepted: \[B, N\]"),
        (lambda: categorical_log_probs(LOGITS, MASK[:, :4]), "mask has shape"),
        (lambda: categorical_log_probs(LOGITS, MASK.astype(int)), "of int64"),
        (lambda: categorical_log_probs(LOGITS, np.zeros_like(MASK)), "no action at all"),
        (lambda: categorical_log_prob(LOGITS, np.zeros(3, int)), r"accepted: \(200,\)"),
        (lambda: categorical_log_prob(LOGITS, np.zeros(200)), "of integers"),
        (lambda: categorical_log_prob(LOGITS, np.full(200, 5)), "accepted: 0 to 4"),
        (lambda: categorical_log_prob(LOGITS, np.full(200, -1)), "accepted: 0 to 4"),
        (lambda: gaussian_log_prob(LOGITS, np.zeros(4), LOGITS), r"accepted: \[B, A\], \[A\], \[B, A\]"),
        (lambda: gaussian_log_prob(LOGITS, np.zeros(5), LOGITS[:1]), r"accepted: \[B, A\]"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
