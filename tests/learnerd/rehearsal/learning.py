"""Updates that go wrong, policies and returns that do, clients of which nothing is learned."""

import numpy as np
from rehearsal.rehearsals import QUICK, SPACES, register, waiting_for_version

IMPOSSIBLE = np.full(5, -500.0)
"""Log-probabilities that no client can have drawn actions with."""

ONE_EACH = "[batch]\nmin_episodes = 16\nchunk_episodes = 1\nmax_chunks = 16\nmax_wait_s = 0.1\n"
HEALTHY_UPDATES = 64

CONTINUOUS = """
[policy]
observation_shape = [3]
action = { kind = "continuous", shape = [1] }
[learner]
algorithm = "reinforce"
"""

FAILS = """
import pathlib
import learnerd.cycle
learn = learnerd.cycle.learn
def failing(*given, **named):
    if pathlib.Path("broken").exists():
        raise RuntimeError("device lost")
    return learn(*given, **named)
learnerd.cycle.learn = failing
"""


def healthy(site, drop, updates, **arrays):
    """Updates that go well, one an episode."""
    before = len(site.ledger_ids())
    for _ in range(updates):
        drop(**arrays)
    site.wait(lambda: len(site.ledger_ids()) >= before + updates, what="healthy updates")


@register("update_unstable", sample=True)
def impossible_log_probabilities(site, drop):
    site.configure(SPACES + ONE_EACH)
    site.start()
    drop(logp=IMPOSSIBLE)
    yield
    healthy(site, drop, HEALTHY_UPDATES - 16)
    assert "update_unstable" in site.alarm_ids()
    healthy(site, drop, 16)
    yield


@register("diverged")
def actions_beyond_all_numbers(site, drop):
    site.configure(CONTINUOUS + ONE_EACH)
    site.start()
    actions = np.linspace(-1, 1, 5)[:, None]
    drop(action=actions * 1e12)
    yield
    healthy(site, drop, HEALTHY_UPDATES, action=actions)
    yield


@register("cycle_failed")
def a_device_that_is_lost(site, drop):
    """The one cause that cannot be had on order: whatever nobody thought of."""
    site.configure(SPACES + ONE_EACH)
    (site.folder / "broken").touch()
    site.start(patch=FAILS)
    drop()
    yield
    (site.folder / "broken").unlink()
    healthy(site, drop, HEALTHY_UPDATES + 1)
    yield


@register("entropy_collapse")
def one_action_is_always_right(site, drop):
    """Until the other one is: on the way there the policy is undecided again."""
    limits = "[stability]\nmin_entropy_fraction = 0.9\n[learner]\nlearning_rate = 0.01\n"
    site.configure(SPACES + limits + "[batch]\nmin_episodes = 4\nmax_wait_s = 5.0\n")
    site.start()
    teach(site, drop, 1, until=lambda: "entropy_collapse" in site.alarm_ids())
    yield
    teach(site, drop, 0, until=lambda: "entropy_collapse" not in site.alarm_ids())
    yield


def teach(site, drop, right, *, until, rounds=200):
    """Episodes of one step, four an update; the right action earns 1, the other one costs as much."""
    for _ in range(rounds):
        before = len(site.ledger_ids())
        for action in (0, 1, 0, 1):
            reward = [1.0 if action == right else -1.0]
            drop(steps=1, action=[action], reward=reward, logp=[np.log(0.5)])
        site.wait(lambda before=before: len(site.ledger_ids()) >= before + 4, what="an update")
        if until():
            return
    raise AssertionError("the policy did not learn it")


@register("return_drift", level="notice")
def returns_that_fall(site, drop):
    site.configure(SPACES + "[batch]\nmax_wait_s = 0.1\nchunk_episodes = 40\n")
    site.start()
    healthy(site, drop, 40)
    healthy(site, drop, 12, reward=np.full(5, -5.0))
    yield
    healthy(site, drop, 40)
    yield


@register("client_starved", sample=True)
def files_that_come_too_late(site, drop):
    site.configure(SPACES + QUICK + "[stability]\nstarvation_episodes = 3\n")
    site.start()
    for _ in range(3):
        drop(meta={"ended_at": 1.0})
    yield
    drop()
    waiting_for_version(site, 2)
    yield
