"""What the demo is made of: the client by contract, the curve, the progress, the processes."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experience.codec import Limits, decode
from learnerd.config import load_config
from learnerd.demo.clients import by_contract, with_library
from learnerd.demo.plot import write_plot
from learnerd.demo.processes import ProcessEnded, Processes
from learnerd.demo.progress import LineProgress, Snapshot, Speed, picture, sparkline
from learnerd.demo.returns import Curve, Played, Reports
from learnerd.demo.supervisor import write_config
from policies.checkpoint import Delta
from policies.distributions import categorical_log_probs
from policies.forward import policy_outputs
from policies.initial import initial_checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import DiscreteSpace, PolicySpec
from policies.store import CheckpointStore

OBS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * [1, 5, 0.1, 30]


def publish(state, **spec):
    """Publish a version with large weights, so that its probabilities are far from even."""
    space = PolicySpec(observation_shape=(4,), action=DiscreteSpace(n=2), **spec)
    base = initial_checkpoint(space, seed=1)
    delta = Delta(
        weights={"policy.2.weight": np.full((2, 64), 0.1) * [[1], [-1]]},
        observed=RunningStatistics.of(OBS),
    )
    store = CheckpointStore(state)
    return store.publish(delta, base=store.head() or base, writer="test", episodes=[])


class TestClientByContract:
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("layer_norm", [False, True])
    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_gives_the_log_probabilities_of_the_version(self, tmp_path, normalize, activation, layer_norm):
        version = publish(tmp_path, normalize=normalize, activation=activation, layer_norm=layer_norm)
        policy = by_contract.read_policy(tmp_path, None)
        assert policy.version == 1
        outputs = policy_outputs(version.weights, version.spec, version.normalizer, OBS)
        expected = categorical_log_probs(outputs)
        found = np.stack([policy.log_probs(obs) for obs in OBS.astype(np.float32)])
        assert np.ptp(expected[:, 0]) > 0.001
        np.testing.assert_allclose(found, expected, atol=2e-5)

    def test_has_no_policy_before_the_first_version(self, tmp_path):
        assert by_contract.read_policy(tmp_path, None) is None

    def test_takes_up_a_newer_version_and_keeps_its_own_when_that_is_damaged(self, tmp_path, capsys):
        publish(tmp_path)
        first = by_contract.read_policy(tmp_path, None)
        assert by_contract.read_policy(tmp_path, first) is first
        publish(tmp_path)
        second = by_contract.read_policy(tmp_path, first)
        assert second.version == 2
        publish(tmp_path)
        model = tmp_path / "checkpoints" / "00000003" / "model.safetensors"
        data = bytearray(model.read_bytes())
        data[-1] ^= 1
        model.chmod(0o644)
        model.write_bytes(data)
        assert by_contract.read_policy(tmp_path, second) is second
        assert "sha256" in capsys.readouterr().err

    def test_draws_with_the_probabilities_that_it_logs(self, tmp_path):
        publish(tmp_path)
        policy = by_contract.read_policy(tmp_path, None)
        rng = np.random.default_rng(0)
        obs = OBS[0].astype(np.float32)
        drawn = [by_contract.choose(policy, obs, rng) for _ in range(4000)]
        share = np.mean([action for action, _ in drawn])
        probability = np.exp(policy.log_probs(obs)[1])
        assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / len(drawn))
        assert all(logp == policy.log_probs(obs)[action] for action, logp in drawn[:10])


@pytest.mark.parametrize("program", [by_contract, with_library])
def test_a_client_process_deposits_whole_episodes_at_its_rate(tmp_path, program):
    spool, state = tmp_path / "spool", tmp_path / "state"
    version = publish(state)
    began_s = time.monotonic()
    arguments = [program.__file__, "--spool", spool, "--state", state, "--rate", "400", "--seed", "3"]
    root = str(Path(by_contract.__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": "" if program is by_contract else root}
    with subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, env=env) as client:
        reports = [json.loads(client.stdout.readline()) for _ in range(20)]
        client.terminate()
    steps = sum(report["steps"] for report in reports)
    assert steps / (time.monotonic() - began_s) < 400
    assert {report["version"] for report in reports} == {1}
    files = sorted((spool / "in").glob("[!.]*"), key=lambda file: file.stat().st_mtime_ns)[: len(reports)]
    for file, report in zip(files, reports, strict=True):
        (episode,) = decoded(file)
        assert (episode.n_steps, episode.total_reward) == (report["steps"], report["return"])
        assert (episode.policy_version, episode.env_id) == (1, "CartPole-v1")
        assert episode.terminated
        assert len(episode.obs) == episode.n_steps + 1
        outputs = policy_outputs(version.weights, version.spec, version.normalizer, episode.obs[:-1])
        chosen = categorical_log_probs(outputs)[np.arange(episode.n_steps), episode.action]
        np.testing.assert_allclose(episode.logp, chosen, atol=1e-6)


def decoded(file):
    result = decode(
        file.read_bytes(), name=file.name, source_sha256="0" * 64, ingested_at=0.0, limits=Limits()
    )
    assert result.problems == ()
    return result.episodes


def played(total_reward, at_s=0.0, version=1):
    return Played(at_s=at_s, total_reward=total_reward, steps=int(total_reward), version=version)


class TestCurve:
    def test_is_in_the_order_of_time_over_both_clients(self):
        curve = Curve()
        curve.add([played(1, 1.0), played(3, 3.0), played(2, 2.0)])
        assert curve.means == [1, 1.5, 2]
        assert curve.mean_return == 2
        assert curve.steps == 6

    def test_is_solved_by_a_hundred_episodes_not_by_fewer(self):
        curve = Curve()
        curve.add([played(500, i) for i in range(99)])
        assert not curve.solved
        curve.add([played(500, 99)])
        assert curve.solved

    def test_needs_475(self):
        curve = Curve()
        curve.add([played(474.9, i) for i in range(300)])
        assert not curve.solved

    def test_forgets_what_is_older_than_a_hundred(self):
        curve = Curve()
        curve.add([played(0, i) for i in range(1000)])
        curve.add([played(500, 1000 + i) for i in range(300)])
        assert curve.solved
        assert curve.mean_return == 475
        assert len(curve.episodes) == 1095

    def test_begins_with_nothing(self):
        assert Curve().mean_return is None


def test_reports_reads_whole_lines_only(tmp_path):
    file = tmp_path / "client.out"
    line = b'{"at": 1.5, "return": 9.0, "steps": 9, "version": 0}\n'
    file.write_bytes(line + line[:20])
    reports = Reports(file)
    assert reports.read() == [Played(at_s=1.5, total_reward=9.0, steps=9, version=0)]
    assert reports.read() == []
    with file.open("ab") as out:
        out.write(line[20:] + line)
    assert len(reports.read()) == 2
    assert reports.read() == []


def snapshot(**changes):
    empty = Snapshot(
        seconds=0.0, mean_return=None, means=[], episodes=0, steps=0, version=0, steps_per_s=0.0, refused=0
    )
    return dataclasses.replace(empty, **changes)


class TestProgress:
    def test_elsewhere_it_is_a_line_every_ten_seconds(self):
        stream = io.StringIO()
        with LineProgress(stream) as progress:
            for tenths in range(0, 251, 2):
                progress.show(snapshot(seconds=tenths / 10, mean_return=99.5, version=7))
        lines = stream.getvalue().splitlines()
        assert [line.split()[0] for line in lines] == ["0", "10", "20"]
        assert "mean return  99.5 of 475" in lines[0]
        assert "version 7" in lines[0]

    def test_on_a_terminal_it_is_a_picture(self):
        console = Console(file=io.StringIO(), width=120)
        console.print(picture(snapshot(seconds=12.0, mean_return=237.5, means=[0, 237.5], episodes=1234)))
        text = console.file.getvalue()
        assert "237.5 of 475" in text
        assert "▁▅" in text
        assert "1,234 episodes" in text

    def test_the_sparkline_ends_with_the_newest(self):
        line = sparkline([*([20.0] * 1000), *([475.0] * 25)])
        assert line == "▁" * 35 + "█"

    def test_speed_is_over_the_last_seconds(self):
        speed = Speed(span_s=5.0)
        assert speed(0, now_s=0.0) == 0.0
        assert speed(100, now_s=1.0) == 100.0
        assert speed(100, now_s=5.0) == 20.0
        assert speed(100, now_s=6.0) == 0.0


class TestPlot:
    def test_is_a_picture(self, tmp_path):
        curve = Curve()
        curve.add([played(20 + i / 3, at_s=100 + i / 20, version=i // 30) for i in range(1200)])
        write_plot(tmp_path / "curve.png", curve, started_at_s=100.0, title="a title")
        data = (tmp_path / "curve.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 20_000
        assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]

    def test_can_be_empty(self, tmp_path):
        write_plot(tmp_path / "curve.png", Curve(), started_at_s=0.0, title="nothing")
        assert (tmp_path / "curve.png").stat().st_size > 0

    def test_leaves_nothing_where_it_cannot_be_written(self, tmp_path):
        (tmp_path / "curve.png").mkdir()
        with pytest.raises(OSError, match="directory"):
            write_plot(tmp_path / "curve.png", Curve(), started_at_s=0.0, title="nothing")
        assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]


class TestProcesses:
    def test_one_that_ends_by_itself_is_noticed(self, tmp_path):
        with Processes(tmp_path, os.environ) as processes:
            processes.start("sleeper", ["-c", "import time; time.sleep(60)"])
            processes.check()
            processes.start("daemon", ["-c", "import sys; sys.exit('out of luck')"])
            with pytest.raises(ProcessEnded, match=r"(?s)daemon .*exit code 1.*daemon\.log.*out of luck"):
                check_for_a_while(processes)

    def test_one_that_ignores_sigterm_is_killed(self, tmp_path):
        ignore = (
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
        )
        with Processes(tmp_path, os.environ) as processes:
            output = processes.start("stubborn", ["-c", ignore])
            while not output.read_bytes():
                time.sleep(0.02)
            assert not processes.stop("stubborn", timeout_s=0.2)
            with pytest.raises(ProcessEnded, match="signal 9"):
                processes.check()

    def test_stop_waits_for_the_end(self, tmp_path):
        drain = (
            "import signal, sys, time\n"
            "def end(*_):\n"
            "    time.sleep(0.3); print('drained', flush=True); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(60)"
        )
        with Processes(tmp_path, os.environ) as processes:
            output = processes.start("daemon", ["-c", drain])
            while not output.read_bytes():
                time.sleep(0.02)
            assert processes.stop("daemon", timeout_s=20)
            assert output.read_text().split() == ["up", "drained"]

    def test_none_outlives_the_block_or_a_killed_parent(self, tmp_path):
        script = (
            "import os, sys, time\n"
            "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
            "from pathlib import Path\n"
            "from learnerd.demo.processes import Processes\n"
            "with Processes(Path(sys.argv[1]), os.environ) as processes:\n"
            "    processes.start('child', ['-c', child])\n"
            "    time.sleep(60)\n"
        )
        root = Path(by_contract.__file__).parents[3]
        env = {**os.environ, "PYTHONPATH": str(root)}
        parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=env)
        output = tmp_path / "child.out"
        while not (output.exists() and output.read_text().endswith("\n")):
            assert parent.poll() is None
            time.sleep(0.02)
        pid = int(output.read_text())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline_s = time.monotonic() + 20
        while is_alive(pid):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def check_for_a_while(processes):
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        processes.check()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_demo_runs_on_the_defaults(tmp_path):
    file = write_config(tmp_path, seed=7)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("[learner]\nseed = 7\n")
    default = load_config(tmp_path / "other" / "config.toml", {})
    config = load_config(file, {})
    assert config.model_dump(exclude={"paths"}) == default.model_dump(exclude={"paths"})
    assert config.paths.spool == tmp_path / "spool"
