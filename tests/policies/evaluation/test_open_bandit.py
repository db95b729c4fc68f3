"""Published data: the small Open Bandit data set (ZOZO, Inc., CC BY 4.0), and a published figure from it.

The data is in the wheel of ``obp`` (Open Bandit Pipeline 0.4.1), which does not install on the Pythons that
we support. Name the wheel: ``OPEN_BANDIT=obp-0.4.1-py3-none-any.whl pytest …``; without it the test is
skipped. Get it with ``pip download obp==0.4.1 --no-deps --ignore-requires-python --only-binary :all:``.
"""

import csv
import io
import os
import zipfile

import numpy as np
import pytest

from experience.batch import Batch
from policies.evaluation import evaluate
from policies.evaluation.logged import Logged

WHEEL = os.environ.get("OPEN_BANDIT", "")
PUBLISHED = 1.198126
"""README of Open Bandit Pipeline: value of Bernoulli TS over random, by inverse propensity weights."""

pytestmark = pytest.mark.skipif(
    not WHEEL, reason="the Open Bandit data is not here: set OPEN_BANDIT to the wheel of obp 0.4.1"
)


class Slots:
    """Thompson sampling as it was in production, a table [item, position]; an observation is the position."""

    def __init__(self, table):
        self._table = table

    def log_probs(self, obs, action, mask):
        with np.errstate(divide="ignore"):
            return np.log(self._table[action, obs[:, 0].astype(int)])

    def choices(self, obs, mask):
        probabilities = self._table[:, obs[:, 0].astype(int)].T
        return np.broadcast_to(np.arange(len(self._table)), probabilities.shape), probabilities


def read(policy, campaign):
    name = f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"
    with zipfile.ZipFile(WHEEL) as wheel:
        rows = list(csv.DictReader(io.StringIO(wheel.read(name).decode())))
    n = len(rows)
    column = lambda name: np.array([float(row[name]) for row in rows])  # noqa: E731
    return Batch(
        obs=(column("position")[:, None] - 1).astype(np.float32),
        final_obs=np.zeros((n, 1), np.float32),
        action=column("item_id").astype(np.int64),
        reward=column("click"),
        logp=np.log(column("propensity_score")),
        mask=None,
        policy_version=np.zeros(n, np.int64),
        offsets=np.arange(n + 1),
        terminated=np.ones(n, bool),
        total_reward=column("click"),
    )


def prior(campaign):
    """alpha and beta of the production policy, from the package's YAML: two levels, then lists of numbers."""
    found, table, key = {}, "", ""
    with zipfile.ZipFile(WHEEL) as wheel:
        lines = wheel.read("obp/policy/conf/prior_bts.yaml").decode().splitlines()
    for line in lines:
        name = line.strip().rstrip(":")
        if line.strip().startswith("-"):
            found[table, key].append(float(line.strip(" -")))
        elif line.startswith(" "):
            key = name
            found[table, key] = []
        elif name:
            table = name
    return np.array(found[campaign, "alpha"]), np.array(found[campaign, "beta"])


def thompson(campaign, *, draws=100_000, positions=3):
    """How often each item is among the best three at each position, as the package simulates it."""
    alpha, beta = prior(campaign)
    rng, table = np.random.RandomState(12345), np.zeros((len(alpha), positions))
    for _ in range(10):
        theta = rng.beta(alpha, beta, size=(draws // 10, len(alpha)))
        best = theta.argsort(axis=1)[:, ::-1][:, :positions]
        for k in range(positions):
            table[:, k] += np.bincount(best[:, k], minlength=len(alpha))
    return Slots(table / draws)


def test_the_published_value_of_thompson_sampling_over_random():
    batch = read("random", "all")
    found = evaluate(Logged.of(batch, thompson("all"), gamma=1.0), method="pdis")
    assert found.value / batch.reward.mean() == pytest.approx(PUBLISHED, abs=1e-6)


@pytest.mark.parametrize("campaign", ["all", "men", "women"])
def test_the_estimate_from_random_clicks_agrees_with_the_clicks_that_thompson_sampling_got(campaign, capsys):
    target = thompson(campaign)
    logged = Logged.of(read("random", campaign), target, gamma=1.0)
    clicks = read("bts", campaign).reward
    error = 2 * clicks.std() / np.sqrt(len(clicks))
    for method in ("cwpdis", "pdis"):
        found = evaluate(logged, method=method)
        with capsys.disabled():
            print(
                f"\n  {campaign:5s} {method:6s} {found.value:.5f} [{found.low:.5f}, {found.high:.5f}]  "
                f"really {clicks.mean():.5f} ± {error:.5f}  effective share {found.ess_fraction:.2f}"
            )
        assert found.low - error <= clicks.mean() <= found.high + error
