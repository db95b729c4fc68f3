"""Are the published versions and the ledger whole? Every byte of every file is read."""

from collections.abc import Iterator
from pathlib import Path

from learnerd import versions
from learnerd.config import Config
from learnerd.doctor.finding import Finding, failure, ok, warning


def check(config: Config) -> Iterator[Finding]:
    """Check every file of every version and of the ledger against its hash, and what CURRENT names."""
    state = config.paths.state
    numbers = versions.numbers(state)
    damaged = {}
    for number in numbers:
        damage = versions.damage(state, number)
        if damage and number in versions.numbers(state):  # not pruned while it was read
            damaged[number] = damage
    for number, damage in damaged.items():
        yield failure(f"version {number}", "; ".join(damage), _remedy(damage))
    if not damaged:
        yield ok("versions", f"{len(numbers)}, all files as their manifests say" if numbers else "none yet")
    current, numbers = versions.current(state), versions.numbers(state)
    if numbers and current not in numbers:
        what = "no version that is there" if current is None else f"version {current}, which is gone"
        remedy = "start the daemon: it mends it; until then clients keep what they have"
        yield warning("CURRENT", f"names {what}", remedy)
    if any((state / "ledger").glob("*.ids")):
        yield _ledger(state / "ledger")


def _ledger(folder: Path) -> Finding:
    from policies.errors import LedgerDamaged  # noqa: PLC0415 - loads NumPy
    from policies.runs import Runs  # noqa: PLC0415

    runs = Runs(folder)
    try:
        runs.refresh()
    except LedgerDamaged as error:
        remedy = "restore it from a backup; without it, what it names may be learned a second time"
        return failure("ledger", f"{error.path}: {error.reason}", remedy)
    return ok("ledger", f"whole; ids of versions up to {runs.compacted_through}")


def _remedy(damage: list[str]) -> str:
    if any(versions.OTHER_RELEASE in what for what in damage):
        return "run the release that wrote it, or restore a backup"
    return "start the daemon: it learns again from the archive what was in it; look at the disk"
