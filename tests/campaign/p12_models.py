"""Promise 12: store and spool obey their models, killed at every step.

The state machines are those of the test suite, with more and longer runs: half of the trials for each.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from outcome import Outcome

NUMBER = 12
PROMISE = "Store and spool obey their models, with crashes at every step"
FULL = 4_000
SAMPLE = 30
STEPS = 50
TESTS = Path(__file__).resolve().parents[1]
MACHINES = (
    (TESTS / "policies" / "store" / "test_machine.py", "StoreMachine"),
    (TESTS / "experience" / "test_spool_states.py", "SpoolStates"),
)


def run(*, trials: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    """Run both machines, each for half of the trials."""
    counts = {"runs": 0, "steps": 0}
    violations: list[str] = []
    share = trials // len(MACHINES)
    for path, name in MACHINES:
        machine = counted(getattr(load(path), name), counts, progress)
        try:
            seeded(seed)(machine)
            run_state_machine_as_test(machine, settings=long_runs(share, steps=STEPS if trials > 100 else 20))
        except Exception as error:  # noqa: BLE001 - a counterexample ends this machine's trials
            notes = "\n".join(getattr(error, "__notes__", ()))
            violations.append(f"{name}: {traceback.format_exc()[-2000:]}\n{notes}")
    figure = f"{counts['runs']} runs, {counts['steps']} steps; {len(violations)} counterexamples"
    return Outcome(trials=counts["runs"], violations=tuple(violations), figure=figure)


def load(path: Path) -> ModuleType:
    """Import a test module by its path; the helpers beside it too."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def counted(
    machine: type[RuleBasedStateMachine], counts: dict[str, int], progress: Callable[[int], None]
) -> type[RuleBasedStateMachine]:
    """The same machine, counting its runs and steps."""

    class Counted(machine):  # type: ignore[valid-type, misc]
        def check_invariants(self, *args, **keywords):
            counts["steps"] += 1
            return super().check_invariants(*args, **keywords)

        def teardown(self):
            counts["runs"] += 1
            progress(counts["runs"])
            super().teardown()

    return Counted


def long_runs(examples: int, *, steps: int) -> settings:
    """Settings of a campaign: nothing is remembered from earlier ones."""
    return settings(
        max_examples=max(examples, 1),
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
