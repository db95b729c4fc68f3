"""Versions with which clients earn less, and rollbacks."""

from rehearsal.rehearsals import register
from rehearsal.settings import reload

CONFIG = """
[admission]
logp_tolerance = 0.0
[rollback]
mode = "MODE"
level = 0.01
min_episodes = 8
[batch]
min_episodes = 8
max_wait_s = 0.1
[policy]
observation_shape = [3]
action = { kind = "discrete", n = 2 }
"""


def play(site, drop, version, reward, *, count=16):
    """Files of a version whose episodes return about so much, until they are learned."""
    before = len(site.ledger_ids())
    for i in range(count):
        drop(meta={"policy_version": version}, reward=[reward + 0.1 * (i % 5), *([0.0] * 4)])
    site.wait(lambda: len(site.ledger_ids()) >= before + count, what="the files")


def decline(site, drop):
    """Clients earn 100 with one version, then 1 with a later one; the first of both."""
    play(site, drop, 0, 50.0, count=8)
    good = site.current()
    play(site, drop, good, 100.0)
    play(site, drop, site.current(), 1.0, count=8)
    return good


@register("version_worse")
def a_decline_and_a_recovery(site, drop):
    site.configure(CONFIG.replace("MODE", "alarm"))
    site.start()
    decline(site, drop)
    yield
    play(site, drop, site.current(), 100.0)
    yield


@register("rolled_back")
def a_decline_that_is_rolled_back(site, drop):
    site.configure(CONFIG.replace("MODE", "auto"))
    site.start()
    decline(site, drop)
    yield
    for _ in range(3):
        play(site, drop, site.current(), 1.0, count=8)
    yield


@register("rolled_back", level="notice")
def a_rollback_by_hand(site, drop):
    site.configure(CONFIG.replace("MODE", "alarm"))
    site.start()
    good = decline(site, drop)
    assert site.learnerd("versions", "rollback", str(good)).returncode == 0
    play(site, drop, site.current(), 100.0, count=8)
    yield
    for _ in range(2):
        play(site, drop, site.current(), 100.0, count=8)
    yield


GATE = """
[gate]
mode = "warn"
min_episodes = 8
max_held_episodes = 8
margin = 1000.0
"""


@register("candidate_failed")
def a_gate_that_nothing_passes(site, drop):
    """No effective share is 1; then any will do."""
    config = CONFIG.replace("MODE", "off") + GATE
    site.configure(config + "min_ess = 1.0\n")
    process = site.start()
    for _ in range(2):
        play(site, drop, 0, 1.0, count=8)
    yield
    reload(site, process, config + "min_ess = 0.0\n")
    play(site, drop, 0, 1.0, count=8)
    yield
