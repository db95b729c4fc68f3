"""The worked clients of learnerd/docs/clients.md, run for real: what they write, and what is learned."""

import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from experience import codec
from experience.durable import write_atomic
from learnerd.config import load_config
from learnerd.demo.clients.by_contract import load_version
from learnerd.export.exporter import Exporter
from policies.behavior import log_probs
from policies.checkpoint import Delta
from policies.initial import initial_checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

CLIENTS = Path(__file__).parents[2] / "learnerd" / "demo" / "clients"
CORRIDOR, CARTPOLE = 7, 4
SPEC = PolicySpec(
    observation_shape=(CARTPOLE,),
    action=DiscreteSpace(n=2),
    hidden=(16, 8),
    activation="tanh",
    normalize=True,
)
VARIANTS = {
    "tanh": {},
    "relu": {"activation": "relu", "spread": 0.005},  # so narrow that observations are clipped
    "layer_norm": {"layer_norm": True, "activation": "relu", "hidden": (16,), "normalize": False},
}
RANDOM_CARTPOLE = 22.0
"""Mean return of random actions."""

RELOADS = 4


def need(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"NOT RUN: {', '.join(missing)} is not installed on this machine")


def run(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr


def once(tmp_path_factory, name, make):
    """A folder that ``make`` has filled, shared by the test processes of one run."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / f"client-{name}"
    with FileLock(shared / f"client-{name}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def c_client(tmp_path_factory):
    """The C client, compiled with every warning an error and both sanitizers."""
    need("gcc")
    strict = ["-std=c99", "-pedantic", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = str(CLIENTS / "c" / "cartpole.c")

    def compiled(folder):
        run(["gcc", *strict, *sanitizers, source, "-o", str(folder / "cartpole"), "-lm"])

    return [str(once(tmp_path_factory, "c", compiled) / "cartpole")]


@pytest.fixture(scope="session")
def node_client(tmp_path_factory):
    """The Node client, with the version of onnxruntime-web that its package.json pins."""
    need("node", "npm")
    pytest.importorskip("onnxruntime", reason="NOT RUN: the extra learnerd[onnx] is not installed")

    def installed(folder):
        for name in ("package.json", "cartpole.mjs"):
            shutil.copy(CLIENTS / "node" / name, folder)
        options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        found = subprocess.run(
            ["npm", "install", *options], cwd=folder, capture_output=True, text=True, check=False, timeout=100
        )
        if found.returncode != 0:
            pytest.skip(f"NOT RUN: npm install failed: {found.stderr[-500:]}")

    return ["node", str(once(tmp_path_factory, "node", installed) / "cartpole.mjs")]


@pytest.fixture(scope="session")
def shell_client():
    need("jq", "od", "sha256sum")
    return ["sh", str(CLIENTS / "shell" / "corridor.sh")]


@pytest.fixture(scope="session")
def python_client():
    """The client of the demo, which names its folders as options."""
    program = f"exec {sys.executable} {CLIENTS / 'by_contract.py'}"
    return ["sh", "-c", f'{program} --spool "$0" --state "$1"']


@pytest.fixture(params=["c", "node", "python", "shell"])
def client(request):
    """Name and command line of a client, without its folders."""
    return request.param, request.getfixturevalue(f"{request.param}_client")


@pytest.fixture
def play(site):
    """Run a client until a condition holds; returns its reports and what it said on standard error."""
    running = []

    def until(command, condition, *, what, timeout_s=90.0):
        out, err = site.folder / "client.out", site.folder / "client.err"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                [*command, str(site.folder / "spool"), str(site.state)],
                stdout=stdout,
                stderr=stderr,
                env=site.env,
            )
        running.append(process)

        def reports():
            *whole, _ = out.read_text().split("\n")
            return [json.loads(line) for line in whole]

        def is_done():
            assert process.poll() is None, err.read_text()
            return condition(reports())

        site.wait(is_done, what=what, timeout_s=timeout_s)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        return reports(), err.read_text()

    yield until
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def publish(site, *, width, seed=0, seen=50, spread=0.3, hidden=(16, 8), **options):
    """Publish a version with weights as after some training."""
    store = CheckpointStore(site.state)
    spec = dataclasses.replace(SPEC, observation_shape=(width,), hidden=hidden, **options)
    head = store.head() or initial_checkpoint(spec, seed=seed)
    rng = np.random.default_rng(seed)
    change = {name: 0.5 * rng.standard_normal(array.shape) for name, array in head.weights.items()}
    observed = RunningStatistics.of(rng.normal(0.1, spread, (seen, width))) if seen else None
    return store.publish(Delta(weights=change, observed=observed), base=head, writer="x", episodes=[])


def export(site):
    site.configure('[export]\nformats = ["onnx"]\n')
    Exporter(load_config(site.folder / "config.toml", {})).close()


def deposited(site):
    """Every episode in the inbox, decoded as the daemon would; leftovers of a stopped client are aside."""
    episodes = []
    for path in site.inbox.glob("[!.]*"):
        found = codec.decode(
            path.read_bytes(), name=path.name, source_sha256="0" * 64, ingested_at=1.0, limits=codec.Limits()
        )
        assert found.problems == ()
        episodes += found.episodes
    return episodes


def width_of(name):
    return CORRIDOR if name == "shell" else CARTPOLE


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_client_computes_what_the_version_says(site, play, client, variant):
    name, command = client
    head = publish(site, width=width_of(name), **VARIANTS[variant])
    export(site)
    reports, errors = play(command, lambda found: len(found) >= 3, what="three episodes")
    assert errors == ""
    assert {report["version"] for report in reports} == {1}
    episodes = deposited(site)
    assert len({episode.key for episode in episodes}) == len(episodes) >= 3
    assert len(episodes) >= len(reports)
    earned = sorted(round(episode.total_reward, 6) for episode in episodes)
    assert all(round(report["return"], 6) in earned for report in reports)
    for episode in episodes:
        assert episode.policy_version == 1
        assert episode.terminated != episode.truncated
        assert not episode.incomplete
        assert len(episode.obs) == len(episode.action) + 1
        expected = log_probs(head, episode.obs[:-1], episode.action)
        np.testing.assert_allclose(episode.logp, expected, atol=1e-4)


def test_a_client_begins_at_random_and_passes_over_what_is_damaged_or_gone(site, play, client):
    name, command = client
    publish(site, width=width_of(name))
    export(site)
    folder, file = ("exports", "policy.onnx") if name == "node" else ("checkpoints", "model.safetensors")
    first = site.state / folder / "00000001"
    second = site.state / folder / "00000002"
    shutil.copytree(first, second)
    data = bytearray((first / file).read_bytes())
    data[-5] ^= 1
    (second / file).write_bytes(data)
    current = site.state / "CURRENT" if name != "node" else site.state / "exports" / "CURRENT"
    current.unlink()
    stages = {3: b"00000001\n", 60: b"00000002\n", 100: b"00000003\n"}  # whole, damaged, gone

    def go_through(reports):
        for least in [least for least in stages if len(reports) >= least]:
            write_atomic(current, stages.pop(least), sync=False)
        return len(reports) > 140

    reports, errors = play(command, go_through, what="a hundred episodes")
    versions = [report["version"] for report in reports]
    assert versions == sorted(versions)
    assert set(versions) == {0, 1}
    assert "version 00000002 is not usable, keeping the last one" in errors
    assert "version 00000003 is not usable, keeping the last one" in errors
    for episode in deposited(site):
        assert episode.policy_version in {0, 1}
        if episode.policy_version == 0:
            np.testing.assert_allclose(episode.logp, np.log(0.5), atol=1e-12)


def learns(site, play, command, *, config, least, last, timeout_s):
    """Play against a daemon until the mean of the ``last`` returns is ``least``; everything was learned."""
    site.configure(config)
    daemon = site.start()

    def is_good(reports):
        newest = [report["return"] for report in reports[-last:]]
        reloads = len({report["version"] for report in reports})
        return len(newest) == last and reloads >= RELOADS and statistics.fmean(newest) >= least

    reports, errors = play(command, is_good, what=f"a mean return of {least}", timeout_s=timeout_s)
    assert site.stop(daemon) == 0
    assert errors == ""
    versions = [report["version"] for report in reports]
    assert versions == sorted(versions)
    status = site.status()
    assert status["policy"]["version"] >= versions[-1] > 1
    assert status["episodes"]["quarantined"] == {}
    assert status["episodes"]["refused"] == {}
    learned = status["episodes"]["learned"]
    assert learned + status["episodes"]["pending"] >= len(reports)  # what was not claimed at the end waits
    assert status["learning"]["logp"] == {"logged": learned, "recovered": 0, "missing": 0}
    assert [alarm for alarm in status["alarms"] if alarm["level"] == "alarm"] == []


CARTPOLE_CONFIG = """
[policy]
observation_shape = [4]
action = { kind = "discrete", n = 2 }
[batch]
max_wait_s = 0.5
[admission]
logp_tolerance = 0.0001
[export]
formats = ["onnx"]
"""
CORRIDOR_CONFIG = """
[policy]
observation_shape = [7]
action = { kind = "discrete", n = 2 }
hidden = [16]
[learner]
learning_rate = 3e-3
[batch]
min_episodes = 16
max_wait_s = 0.5
[admission]
logp_tolerance = 0.0001
"""


def test_the_shell_client_learns_the_corridor(site, play, shell_client):
    # Straight to the prize: 0.9. At random: about -0.7, for most episodes end without it.
    learns(site, play, shell_client, config=CORRIDOR_CONFIG, least=0.6, last=48, timeout_s=90)


def test_the_c_client_learns(site, play, c_client):
    learns(site, play, c_client, config=CARTPOLE_CONFIG, least=2.5 * RANDOM_CARTPOLE, last=30, timeout_s=90)


def test_the_node_client_learns_through_onnx(site, play, node_client):
    learns(
        site, play, node_client, config=CARTPOLE_CONFIG, least=2.5 * RANDOM_CARTPOLE, last=30, timeout_s=90
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("client", ["c", "node"], indirect=True)
def test_a_client_nearly_solves_cartpole(site, play, client):
    learns(site, play, client[1], config=CARTPOLE_CONFIG, least=400, last=50, timeout_s=360)


def test_a_client_says_how_it_is_called(c_client, node_client):
    for command in (c_client, node_client):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "SPOOL STATE" in result.stderr


def test_the_python_client_clips_before_anything_was_seen(site):
    head = publish(site, width=CARTPOLE, seen=0)
    policy = load_version(site.state / "checkpoints" / "00000001")
    obs = np.array([20.0, -20.0, 0.5, 11.0], np.float32)
    expected = log_probs(head, np.stack([obs, obs]), np.array([0, 1]))
    np.testing.assert_allclose(policy.log_probs(obs), expected, atol=1e-6)


def test_no_client_folder_is_in_the_way_of_a_registry():
    package = json.loads((CLIENTS / "node" / "package.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    assert sorted(path.name for path in (CLIENTS / "node").iterdir() if path.name != "node_modules") == [
        "cartpole.mjs",
        "package.json",
    ]
    assert sys.platform == "linux"
