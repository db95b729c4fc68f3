"""Compare what became of the corpus with what was expected."""

import os
from collections import Counter

from hostile_case import Case


def decoder_complaint(case: Case, result) -> str:
    """Say what is wrong with a decoder's result for ``case``; "" when nothing is.

    Refusals come later, from admission: here they are episodes as good as others.
    """
    expected = [reason for verdict, reason in case.records if verdict == "quarantined"]
    readable = case.learned + sum(verdict == "refused" for verdict, _ in case.records)
    if result.died:
        return f"{case.name!r} ended its decoder"
    if result.problem is not None:
        found, episodes = [result.problem.reason], 0
    else:
        found = [problem.reason for problem in result.decoded.problems]
        episodes = len(result.decoded.episodes)
    if episodes != readable or not matches(expected, found):
        return f"{case.name!r}: {episodes} episodes and {found}, expected {readable} and {expected}"
    return ""


def daemon_complaints(cases: list[Case], records: list[dict], learned: Counter) -> list[str]:
    """Say for which names the daemon's records and ledger are not as expected.

    Args:
        cases: the corpus.
        records: lines of ``state/outcomes.jsonl``.
        learned: source name -> episodes in the ledger.
    """
    complaints = []
    for case in cases:
        own = [record for record in records if is_name(record["name"], case.name)]
        found = [(record["verdict"], record["reason"]) for record in own]
        expected = [f"{verdict}:{reason}" for verdict, reason in case.records]
        texts = [f"{verdict}:{reason}" for verdict, reason in found]
        count = sum(n for name, n in learned.items() if is_name(name, case.name))
        alternatives = [text.replace("|", f"|{text.partition(':')[0]}:") for text in expected]
        if count != case.learned or not matches(alternatives, texts):
            complaints.append(
                f"{case.name!r}: {count} learned and {texts}, expected {case.learned} and {expected}"
            )
    return complaints


def is_name(found: str, name: str) -> bool:
    """Whether ``found`` is a record's or a ledger's way to write ``name``.

    Claims shorten long names, keeping their beginning; the ledger escapes bytes that are no text.
    """
    escaped = name.encode(errors="backslashreplace").decode()
    shortened = len(os.fsencode(name)) > 200 and "~" in found and name[:100] == found[:100]
    return found in (name, escaped) or shortened


def matches(expected: list[str], found: list[str]) -> bool:
    """Whether they are the same, in any order; "|" separates the reasons that an expectation allows."""
    rest = list(found)
    for reasons in expected:
        hit = next((reason for reason in rest if reason in reasons.split("|")), None)
        if hit is None:
            return False
        rest.remove(hit)
    return not rest
