"""``learnerd replay --set`` and ``--tune`` on histories whose best policy is known."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import structlog
from archive_tools import learn as run_daemon

from experience.episode import Episode
from experience.spool import Spool
from learnerd.cli.what_if import fragment
from learnerd.config import changed, load_config
from learnerd.errors import ConfigError, LearnerdError
from learnerd.walkforward import walk as walking
from learnerd.walkforward.parts import cut
from learnerd.walkforward.pool import Pool
from learnerd.walkforward.results import Estimates, student_quantile
from learnerd.walkforward.search import divide, score_of, search
from learnerd.walkforward.settings import alternatives, parse
from learnerd.walkforward.side_by_side import Request, compare, history_of
from learnerd.walkforward.space import ALGORITHM, SPACE, check_space, fitting, space_of
from policies.store import CheckpointStore

CONFIG = "[policy]\nhidden = [8]\n[learner]\nlearning_rate = 0.003\n"


def play(name, rng, *, logp=-0.6931471805599453):
    """Two steps with actions at random; right is what the first number's sign says."""
    obs = rng.normal(size=(3, 2)).astype(np.float32)
    action = rng.integers(2, size=2)
    return Episode(
        episode_id=name,
        obs=obs,
        action=action,
        reward=(action == (obs[:-1, 0] > 0)).astype(np.float64),
        logp=None if logp is None else np.full(2, logp),
        terminated=True,
        truncated=False,
        policy_version=0,
    )


@pytest.fixture
def past(tmp_path):
    """An archive of batches of 32 episodes, and nothing else."""

    def build(batches=8, *, each=32, text=CONFIG, **how):
        (tmp_path / "config.toml").write_text(text)
        spool, rng = Spool(tmp_path / "spool", writer="daemon"), np.random.default_rng(0)
        for version in range(1, batches + 1):
            episodes = [play(f"{version}-{i}", rng, **how) for i in range(each)]
            spool.archive(version, episodes, published_at=1000.0, note="")
        return load_config(tmp_path / "config.toml", {})

    return build


@pytest.fixture
def what_if(tmp_path, in_process):
    root = logging.getLogger()
    before = root.handlers, root.level
    yield partial(in_process, tmp_path, "replay")
    structlog.reset_defaults()
    root.handlers, root.level = before


def here(tasks):
    return [walking.walk(task) for task in tasks]


def asked(config, *texts):
    return alternatives(config, parse(texts))


def test_each_part_is_judged_before_it_is_learned_from(past, monkeypatch):
    history = history_of(past(6), Request(seeds=1, parts=3))
    learned, seen = [], []
    judge, learn = walking.judge, walking.learn

    def judging(task, position, episodes, policy, behavior):
        seen.append((position, {e.episode_id for e in episodes}, set(learned), policy.counters["episodes"]))
        return judge(task, position, episodes, policy, behavior)

    def learning(base, chunks, **how):
        learned.extend(e.episode_id for chunk in chunks for e in chunk)
        return learn(base, chunks, **how)

    monkeypatch.setattr(walking, "judge", judging)
    monkeypatch.setattr(walking, "learn", learning)
    (task,) = history.tasks(asked(history.config, "learner.epochs=2")[1], judged=range(1, 3))
    walked = walking.walk(task)
    assert [position for position, *_ in seen] == [1, 2]
    for position, judged, before, count in seen:
        assert before == {f"{v}-{i}" for v in range(1, 2 * position + 1) for i in range(32)}
        assert not judged & before
        assert len(judged) == 64
        assert count == len(before)
    assert [one.episodes for one in walked.judged] == [64, 64]


def test_bad_settings_are_told_from_good_ones(past):
    """The learning rate as configured learns the task, a thousandth of it nothing, more of it more."""
    history = history_of(past(), Request(seeds=2, parts=4))
    found = compare(
        history, asked(history.config, "learner.learning_rate=3e-6|0.02", "learner.popart_rate=0.1"), run=here
    )
    as_is, tiny, larger = found.standings
    assert as_is.difference is None
    assert as_is.value.value > 1.4
    assert (tiny.verdict, larger.verdict) == ("worse", "better")
    assert tiny.value.value == pytest.approx(0.995, abs=0.12)
    assert tiny.difference.high < -0.3
    assert min(one.ess_fraction for one in found.standings) > 0.3
    assert tiny.ess_fraction == pytest.approx(1.0, abs=0.01)
    assert [one.name for one in found.alternatives] == [
        "as configured",
        "learning_rate=3e-06",
        "learning_rate=0.02",
    ]


def test_a_verdict_needs_an_effective_share(past, tmp_path):
    text = CONFIG + "[gate]\nmin_ess = 0.9\n"
    history = history_of(past(text=text), Request(seeds=2, parts=4))
    _, tiny = compare(history, asked(history.config, "learner.learning_rate=3e-6"), run=here).standings
    assert tiny.difference.high < 0.0
    assert tiny.verdict == "cannot tell"


def test_the_configuration_as_it_is_learns_what_the_daemon_learned(site, drop, own_signals):
    site.configure("[learner]\nseed = 3\n[batch]\nreuse = 2.0\n")
    run_daemon(site, drop, 8, 20)
    config = load_config(site.folder / "config.toml", {})
    history = history_of(config, Request(seeds=2, parts=2))
    task = history.tasks(asked(config, "learner.epochs=1")[0], judged=[1])[0]
    pupil = walking.Pupil(task)
    archive = walking.ArchiveReader(Spool(config.paths.spool).archive_folder)
    for part in history.parts:
        pupil.learn(walking.read(archive, part))
    recorded = CheckpointStore(config.paths.state).head()
    assert task.seed == 3
    assert recorded.counters["replayed"] > 0
    assert [pupil.head.counters[name] for name in ("episodes", "updates")] == [28, 3]
    for name, weights in recorded.weights.items():
        np.testing.assert_array_equal(pupil.head.weights[name], weights, err_msg=name)


def test_batches_are_cut_anew_when_asked_for(past):
    history = history_of(past(4), Request(seeds=1, parts=2))
    _, other = asked(history.config, "batch.chunk_episodes=64")
    as_is, joined = (
        walking.walk(history.tasks(one, judged=[1])[0])
        for one in asked(history.config, "batch.chunk_episodes=64")
    )
    assert history.tasks(other, judged=[1])[0].rebatched
    assert (as_is.updates, joined.updates) == (8, 1)  # of two batches of 32: 8 of 8 episodes, one of 64


def test_updates_beyond_their_limits_are_left_out_and_counted(past):
    history = history_of(past(4), Request(seeds=1, parts=2))
    _, other = asked(history.config, "stability.max_kl=1e-12")
    walked = walking.walk(history.tasks(other, judged=[1])[0])
    assert (walked.updates, walked.unpublished) == (0, 2)


def test_another_network_learns_from_the_same_spaces(past):
    history = history_of(past(4), Request(seeds=1, parts=2))
    _, other = asked(history.config, "policy.hidden=[5, 4]")
    (task,) = history.tasks(other, judged=[1])
    assert (task.spec.hidden, task.spec.observation_shape) == ((5, 4), history.spec.observation_shape)
    assert walking.walk(task).updates == 8


def test_long_parts_are_judged_by_every_other_episode():
    rng = np.random.default_rng(0)
    episodes = [play(str(i), rng) for i in range(10)]
    assert [e.episode_id for e in walking.thinned(episodes, most_steps=20)] == [str(i) for i in range(10)]
    assert [e.episode_id for e in walking.thinned(episodes, most_steps=19)] == list("02468")


def test_parts_are_about_even_and_keep_batches_whole():
    parts = cut({1: 10, 2: 10, 3: 30, 5: 10, 6: 20}, parts=4)
    assert [(part.versions, part.episodes) for part in parts] == [
        ((1, 2), 20),
        ((3,), 30),
        ((5,), 10),
        ((6,), 20),
    ]
    with pytest.raises(
        LearnerdError, match="90 episodes in 1 batches, which make 1 part; accepted: two or more"
    ):
        cut({4: 90}, parts=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner.learning_rate=-1", r"--set: \[learner\] learning_rate is -1; accepted: a number > 0"),
        ("learner.algorithm=sarsa", r'algorithm is "sarsa"; accepted: "ppo" or "reinforce"'),
        ("learner.learning_rat=0.1", r"no such key; accepted: .*did you mean learning_rate"),
        ("lerner.learning_rate=0.1", r"no table of the configuration.*did you mean \[learner\]"),
        ("learner.seed=1", r"\[learner\] seed is 1; .*--seeds learns with several"),
        ("learner.threads=2", r"it does not change what is learned"),
        ("policy.observation_shape=[3]", r"the archived episodes have theirs"),
        ("store.keep_last=3", r"accepted: keys of \[learner\], \[policy\], \[batch\], \[stability\]"),
        ("batch.min_episodes=3", r"when a batch closed.*chunk_episodes cuts it anew"),
        ("batch.reuse=2.0", r"reuse is 2.0; accepted: 1.0, for none"),
        ("learner.baseline=ema", r'baseline is "ema"; accepted: "value" with algorithm "ppo"'),
    ],
)
def test_keys_and_values_that_are_not_accepted_are_named(past, text, message):
    config = past(2)
    with pytest.raises(ConfigError, match=message):
        asked(config, text)


def test_the_command_line_says_what_it_cannot_do(past, what_if, tmp_path):
    past(2)
    assert "accepted: table.key=value" in what_if("--set", "learning_rate", code=2).err
    twice = what_if("--set", "learner.epochs=1", "--set", "learner.epochs=2", code=2).err
    assert "given twice" in twice
    many = "|".join(map(str, range(1, 34)))
    assert "at most 32" in what_if("--set", f"learner.epochs={many}", code=2).err
    assert "nothing differs" in what_if("--set", "learner.learning_rate=0.003", code=2).err
    assert "it goes with --set or --tune" in what_if("--parts", "4", code=2).err
    assert "there is no store" in what_if("--set", "learner.epochs=1", "--into", "x", code=2).err
    wanted = ("--set", "learner.epochs=1", "--plot", "nowhere/x.png")
    assert "there is no folder nowhere" in what_if(*wanted, code=2).err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    assert "--into full is not empty" in what_if("--into", "full", code=2).err
    assert "goes without --set" in what_if("--set", "learner.epochs=1", "--verify", code=2).err
    assert "learning_rate is 0; accepted" in what_if("--set", "learner.learning_rate=0", code=6).err
    assert "--method: guess; accepted: cwpdis" in what_if("--tune", "2", "--method", "guess", code=2).err


def test_without_a_usable_archive_it_says_so(past, what_if, tmp_path):
    past(0)
    assert "nothing to learn from: no shard in" in what_if("--set", "learner.epochs=1", code=9).err
    past(3)
    shard = next((tmp_path / "spool" / "archive").rglob("00000002.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    assert "00000002.parquet" in what_if("--set", "learner.epochs=1", code=1).err


def test_a_history_without_log_probabilities_judges_nothing(past):
    history = history_of(past(4, logp=None), Request(seeds=1, parts=2))
    with pytest.raises(LearnerdError, match="logp: no part has two episodes with log-probabilities"):
        compare(history, asked(history.config, "learner.epochs=1"), run=here)


def test_two_processes_find_what_one_finds(past, what_if, tmp_path):
    config = past(4)
    settings = "learner.learning_rate=0.001|0.01"
    arguments = ("--set", settings, "--seeds", "1", "--parts", "3", "--json", "--jobs", "2")
    document = json.loads(what_if(*arguments, "--plot", str(tmp_path / "what_if.png")).out)
    alone = compare(history_of(config, Request(seeds=1, parts=3)), asked(config, settings), run=here)
    assert document == json.loads(json.dumps(alone.to_json()))
    assert (document["schema"], document["method"], document["seeds"]) == (1, "cwpdis", [0])
    assert document["parts"][0]["judged_by"] == 0
    assert sum(part["episodes"] for part in document["parts"]) == 128
    assert [one["settings"] for one in document["alternatives"]] == [
        {},
        {"learner.learning_rate": 0.001},
        {"learner.learning_rate": 0.01},
    ]
    assert (tmp_path / "what_if.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "spool", "what_if.png"]


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(past, what_if):
    past(4)
    arguments = ("--set", "learner.epochs=1|2", "--seeds", "2", "--parts", "3", "--json", "--jobs")
    assert what_if(*arguments, "1").out == what_if(*arguments, "3").out
    arguments = ("--tune", "5", "--seeds", "1", "--parts", "4", "--json", "--jobs")
    assert what_if(*arguments, "1").out == what_if(*arguments, "3").out


def test_a_process_that_ends_between_two_rounds_is_named(past):
    history = history_of(past(4), Request(seeds=1, parts=3))
    (task,) = history.tasks(asked(history.config, "learner.epochs=1")[0], judged=[1])
    with Pool(jobs=1) as pool:
        pool.run([task])
        (worker,) = pool._workers
        worker.process.kill()  # as the kernel does when memory runs out
        worker.process.join()
        with pytest.raises(LearnerdError, match="as configured: its process ended with -9"):
            pool.run([task])


def test_the_table(past, what_if, monkeypatch):
    past(4)
    monkeypatch.setattr(Pool, "run", lambda pool, tasks, on_part: here(tasks))
    text = what_if("--set", "learner.learning_rate=3e-6", "--seeds", "1", "--parts", "3").out
    assert "as configured" in text
    assert "learning_rate=3e-06" in text
    many = what_if(
        *("--set", "learner.learning_rate=3e-6", "--set", "policy.hidden=[64, 64, 64, 64, 64, 64, 64, 64]"),
        *("--set", "learner.value_max_grad_norm=11.5", "--seeds", "1", "--parts", "3"),
    ).out
    assert "value_max_grad_norm=11.5" in many
    assert "…" not in many
    assert "worse" in text
    assert (
        "1 seed; 2 of 3 parts judged before they were learned from; 96 episodes, which really earned" in text
    )
    assert "one seed: the intervals do not know" in text


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_what_is_broken_off_leaves_nothing(past, tmp_path, how):
    past(8)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    command = [
        sys.executable,
        "-m",
        "learnerd",
        "replay",
        "--set",
        "learner.epochs=2",
        "--seeds",
        "90",
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(scratch)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    _wait_for(lambda: any("multiprocessing.spawn" in line for line in _session(process.pid)))
    os.kill(process.pid, how) if how == signal.SIGKILL else os.killpg(process.pid, how)
    _, told = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in told
    _wait_for(lambda: not _session(process.pid))
    assert list(scratch.iterdir()) == []


def _wait_for(condition):
    until = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def _session(leader):
    """Command lines of the processes of a session that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended
    return found


def test_the_search_judges_its_best_where_it_has_not_looked(past, tmp_path):
    history = history_of(past(), Request(seeds=1, parts=5))
    looked_at = []

    def run(tasks):
        looked_at.extend(task.judged for task in tasks)
        return here(tasks)

    space = space_of(history.config, parse(["learner.learning_rate=3e-6|0.02", "learner.algorithm=ppo"]))
    only = {key: space[key] for key in (("learner", "algorithm"), ("learner", "learning_rate"))}
    found = search(history, only, trials=5, run=run)
    assert looked_at == [(1, 2, 3, 4), *[(1, 2, 3)] * 5, (4,)]
    assert (found.searched, found.held_out) == ((1, 2, 3), (4,))
    assert found.best.alternative.settings() == {"learner.learning_rate": 0.02}
    assert found.difference.value == pytest.approx(found.standing.value.value - found.baseline.value.value)
    text = fragment(found)
    assert tomllib.loads(text) == {"learner": {"learning_rate": 0.02}}
    assert f"#   {found.difference:+} on the newest 1 part, which the search has not seen" in text
    (tmp_path / "fragment.toml").write_text(text)
    assert load_config(tmp_path / "fragment.toml", {}).learner.learning_rate == 0.02


def test_tune_prints_a_fragment_that_config_check_accepts(past, what_if, tmp_path, in_process, monkeypatch):
    past(4)
    monkeypatch.setattr(Pool, "run", lambda pool, tasks, on_part: here(tasks))
    told = what_if("--tune", "4", "--seeds", "1", "--parts", "3")
    assert "settings, best first" in told.err
    (tmp_path / "fragment.toml").write_text(told.out)
    assert "ok" in in_process(tmp_path, "config", "check", "--config", "fragment.toml").out
    assert "# Difference in return from the configuration as it was" in told.out


def test_without_optuna_the_extra_is_named(past, what_if, monkeypatch):
    past(4)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "--tune needs Optuna: install learnerd[tune]" in what_if("--tune", "2", code=1).err


def test_what_is_searched_is_accepted(past):
    config = past(2)
    check_space(config, SPACE)
    other = changed(
        config,
        {ALGORITHM: "reinforce", ("learner", "baseline"): "ema", ("learner", "lr_scaling"): "sum"},
        source="",
    )
    check_space(other, SPACE)
    assert fitting(other, {ALGORITHM: "ppo"})["learner", "lr_scaling"] == "sqrt"
    again = changed(config, {("batch", "reuse"): 2.0}, source="")
    assert space_of(again, {})[ALGORITHM].choices == ("ppo",)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learner.epochs=0|2"], "epochs is 0"),
        (["learner.lr_scaling=sum"], 'lr_scaling is "sum"; accepted: .* with algorithm "ppo"'),
        (["learner.seed=1"], "--seeds learns with several"),
    ],
)
def test_what_cannot_be_searched_is_named_before_anything_is_learned(past, texts, message):
    config = past(2)
    with pytest.raises(ConfigError, match=message):
        check_space(config, space_of(config, parse(texts)))


def test_a_setting_that_cannot_be_judged_is_worth_less():
    history = divide(7)
    assert history == ((0, 1, 2, 3, 4), (5, 6))
    assert divide(2) == ((0,), (1,))
    with pytest.raises(LearnerdError, match="1 parts can be judged; accepted: two or more"):
        divide(1)
    standing = type("Standing", (), {"difference": type("Interval", (), {"low": 0.5}), "ess_fraction": 0.1})
    assert score_of(standing, min_ess=0.4, spread=2.0) == pytest.approx(0.5 - 2.0 * 0.75)
    assert score_of(standing, min_ess=0.1, spread=2.0) == 0.5


def test_quantiles_of_students_distribution():
    assert student_quantile(0.025, 2.0) == pytest.approx(4.302653, abs=1e-5)
    assert student_quantile(0.025, 10.0) == pytest.approx(2.228139, abs=1e-5)
    assert student_quantile(0.005, 1.0) == pytest.approx(63.65674, abs=1e-3)


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.3), (3, 0.0), (3, 0.3), (5, 1.0)])
def test_intervals_hold_what_they_promise(seeds, spread):
    """Seeds, episodes and what both do together vary; the true value is 0."""
    rng = np.random.default_rng(0)
    held, draws, parts, episodes = 0, 400, 4, 30
    for _ in range(draws):
        of_seed = spread * rng.normal(size=(seeds, 1, 1))
        of_episode = rng.normal(size=(1, parts, episodes))
        both = 0.5 * rng.normal(size=(seeds, parts, episodes))
        returns = of_seed + of_episode + both
        values = returns.mean(axis=2)
        influence = (returns - values[:, :, None]) / (episodes - 1)
        found = Estimates(values=values, deviations=tuple(influence.transpose(1, 0, 2))).interval()
        held += found.low <= 0.0 <= found.high
    print(f"{seeds} seeds that differ by {spread}: coverage {held / draws}")
    assert 0.94 <= held / draws <= 0.995


def test_what_settings_share_cancels():
    rng = np.random.default_rng(0)
    values, deviations = rng.normal(size=(3, 2)), tuple(rng.normal(size=(3, 9)) for _ in range(2))
    one = Estimates(values=values, deviations=deviations)
    other = Estimates(values=values - 0.25, deviations=deviations)
    found = (one - other).interval()
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert one.interval().high > one.interval().value
