"""Clients of which nothing is learned any more."""

from learnerd import starvation
from learnerd.starvation import REMEDIES, Starvation


def refuse(counts, client, *reasons):
    for reason in reasons:
        counts.refused(client, reason)


def test_as_many_refused_as_configured_and_none_learned():
    counts = Starvation(3)
    refuse(counts, "bot", "too_old", "too_stale")
    assert counts.starved(()) is None
    refuse(counts, "bot", "too_stale")
    starved = counts.starved(())
    assert starved.message == "every episode is refused of client 'bot' (2 of its last 3: too_stale)"
    assert starved.remedy == f"too_stale: {REMEDIES['too_stale']}"
    counts.learned(["bot"])
    assert counts.starved(()) is None
    refuse(counts, "bot", "too_stale", "too_stale")
    assert counts.starved(()) is None


def test_the_last_episodes_decide_which_reason_it_is():
    counts = Starvation(3)
    refuse(counts, "bot", *["too_old"] * 9, "logp_mismatch", "logp_mismatch")
    assert "2 of its last 3: logp_mismatch" in counts.starved(()).message
    assert "leaves policy_version out" in counts.starved(()).remedy


def test_one_client_is_fed_while_another_starves():
    counts = Starvation(2)
    refuse(counts, "bot", "too_old", "too_old")
    refuse(counts, "", "mask", "mask")
    counts.learned(["other"])
    assert "'bot'" in counts.starved(()).message
    assert "clients without a client_id (2 of its last 2: mask)" in counts.starved(()).message
    assert "'bot'" not in counts.starved(["bot", "x"]).message
    assert counts.starved(["", "bot"]) is None
    counts.learned([""])
    assert "without a client_id" not in counts.starved(()).message


def test_many_starving_clients_are_counted_and_each_reason_is_explained_once():
    counts = Starvation(1)
    for i in range(5):
        refuse(counts, f"c{i}", "too_old" if i else "mask")
    starved = counts.starved(())
    assert starved.message.endswith("client 'c2' (1 of its last 1: too_old) and 2 more")
    assert starved.remedy == f"mask: {REMEDIES['mask']}; too_old: {REMEDIES['too_old']}"


def test_memory_is_bounded_and_forgets_the_one_refused_longest_ago(monkeypatch):
    monkeypatch.setattr(starvation, "MOST_CLIENTS", 3)
    counts = Starvation(2)
    refuse(counts, "a", "mask")
    for client in ("b", "c", "a", "d"):
        refuse(counts, client, "mask")
    assert list(counts._refused) == ["c", "a", "d"]
    assert "'a'" in counts.starved(()).message
    refuse(counts, "a", *["mask"] * 99)
    assert len(counts._refused["a"]) == 2


def test_zero_is_off():
    counts = Starvation(0)
    refuse(counts, "a", "mask")
    assert counts.starved(()) is None
    assert not counts._refused


def test_a_reason_without_advice_points_to_the_rows():
    counts = Starvation(1)
    refuse(counts, "a", "diverged")
    assert "refused/diverged" in counts.starved(()).remedy
