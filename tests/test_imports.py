"""What each door into the packages loads: import-linter does not see what a parent's __init__ pulls in."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "pyarrow", "pydantic", "typer", "rich", "watchdog", "apscheduler", "structlog", "learnerd"}

SHOW = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

ACTOR_AND_WRITER = """
import dataclasses, os, sys
import numpy as np
from experience import EpisodeWriter
from policies import Actor, DiscreteSpace, PolicySpec
from policies.initial import initial_checkpoint
from policies.manifest import describe, encode_manifest, encode_model, version_folder

state = os.path.join(sys.argv[1], "state")
spec = PolicySpec(observation_shape=(2,), action=DiscreteSpace(n=2), hidden=(4,), normalize=True)
first = initial_checkpoint(spec, seed=0)
files = {"model.safetensors": encode_model(first.weights, first.normalizer)}
manifest = {"schema": 1, "version": 1, "spec": spec.to_json(), "files": describe(files)}
folder = version_folder(state, 1)
folder.mkdir(parents=True)
(folder / "model.safetensors").write_bytes(files["model.safetensors"])
(folder / "manifest.json").write_bytes(encode_manifest(manifest))
with open(os.path.join(state, "CURRENT"), "w") as file:
    file.write("00000001\\n")

actor = Actor(state, seed=0)
writer = EpisodeWriter(os.path.join(sys.argv[1], "spool"), client_id="c")
obs = np.zeros(2, np.float32)
action, logp = actor.act(obs)
writer.step(obs, action, 1.0, logp=logp, policy_version=actor.version)
assert writer.end(obs, terminated=True).exists()
"""

COMMAND = """
import sys
from learnerd.cli import main
sys.argv[1:] = {arguments!r}
try:
    main()
except SystemExit as error:
    assert error.code == {code}, error.code
"""


def loaded(code, *arguments):
    """Top-level names in sys.modules after ``code`` ran in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", code + SHOW, *arguments], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_check_sees_what_is_loaded():
    assert {"json", "sys", "pyarrow"} <= loaded("import pyarrow")


@pytest.mark.parametrize(
    "code",
    [
        "import experience",
        "import experience.decode_child",
        "import policies",
        "from policies import Actor, CheckpointStore",
        "import policies.behavior, policies.initial",
        "import policies.evaluation",
    ],
)
def test_packages_load_nothing_heavy(code):
    assert not loaded(code) & HEAVY


def test_client_that_acts_and_deposits_loads_nothing_heavy(tmp_path):
    modules = loaded(ACTOR_AND_WRITER, str(tmp_path))
    assert not modules & HEAVY
    assert {"numpy", "safetensors"} <= modules


def test_experience_alone_needs_numpy_only():
    assert not loaded("import experience") & (HEAVY | {"safetensors", "filelock", "policies"})


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["versions", "rollback", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    assert not loaded(COMMAND.format(arguments=arguments, code=0)) & {"torch", "pyarrow", "numpy"}


@pytest.mark.parametrize(
    ("command", "code", "also"),
    [
        (["status", "--json"], 3, {"numpy"}),
        (["versions", "list"], 0, {"numpy"}),
        (["versions", "show", "1"], 1, {"numpy"}),
        (["versions", "unpin", "1"], 9, set()),
    ],
)
def test_light_commands_load_nothing_heavy(tmp_path, command, code, also):
    config = tmp_path / "config.toml"
    config.write_text("")
    arguments = [*command, "--config", str(config)]
    assert not loaded(COMMAND.format(arguments=arguments, code=code)) & {"torch", "pyarrow", *also}


def test_doctor_and_service_load_nothing_heavy_themselves(tmp_path):
    """The episode that the doctor tries is learned from in a process of its own."""
    (tmp_path / "config.toml").write_text("[batch]\nmin_episodes = 0")
    heavy = {"torch", "pyarrow", "numpy"}
    arguments = ["doctor", "--json", "--config", str(tmp_path / "config.toml")]
    without_trial = "import learnerd.doctor.trial as trial; trial._run = lambda *_: (1, '')\n"
    assert not loaded(without_trial + COMMAND.format(arguments=arguments, code=6)) & heavy
    assert not loaded(COMMAND.format(arguments=["service", "print"], code=0)) & heavy
