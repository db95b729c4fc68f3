import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.spaces import BoxSpace, DictSpace, ImageSpace
from learnerd.config import TEMPLATE, Config, ConfigError, load_config
from learnerd.config_tables import Learner
from policies.settings import InvalidSetting, LearnerSettings
from policies.spec import ContinuousSpace, DiscreteSpace

NOT_LEARNING = {"device", "seed", "threads"}


def write(tmp_path, text):
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(tmp_path, text, env=None):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), env or {})
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    return caught.value.problems


def test_template_holds_every_default_and_nothing_else():
    found = load_config(TEMPLATE, {})
    folder = TEMPLATE.parent
    expected = Config.model_validate({"paths": {"spool": folder / "spool", "state": folder / "state"}})
    assert found.model_dump() == expected.model_dump()


def test_template_names_every_key():
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, field in Config.model_fields.items():
        section = text.split(f"[{name}]")[1].split("\n[")[0]
        for key in field.annotation.model_fields:
            assert re.search(rf"^(# )?{key} = ", section, re.MULTILINE), f"[{name}] {key}"


@pytest.mark.parametrize(
    "http", ["", "127.0.0.1:0", "localhost:80", "[::1]:8642", "127.9.9.9:1", '0.0.0.0:80"\ntoken_file = "t']
)
def test_addresses_that_are_accepted(tmp_path, http):
    telemetry = load_config(write(tmp_path, f'[telemetry]\nhttp = "{http}"'), {}).telemetry
    assert telemetry.token_file == (tmp_path / "t" if "token" in http else None)


def test_template_says_why_for_every_key():
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        if re.match(r"^[a-z_]+ = ", line) and not line.startswith(
            ("optimizer", "tensorboard", "minibatches")
        ):
            assert len(line.partition("#")[2]) > 20, line


def test_top_level_config_is_the_packaged_template():
    link = Path(__file__).parents[2] / "config.toml"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == TEMPLATE.resolve()


def test_an_empty_file_means_defaults(tmp_path):
    config = load_config(write(tmp_path, ""), {})
    assert config.batch.min_episodes == 8
    assert config.paths.spool == tmp_path / "spool"


def test_learner_keys_are_those_of_the_learner():
    ours = {name: field.default for name, field in Learner.model_fields.items() if name not in NOT_LEARNING}
    theirs = {field.name: field.default for field in dataclasses.fields(LearnerSettings)}
    assert ours == {name: theirs[name] for name in ours}
    assert Learner().settings() == LearnerSettings()


def test_learner_settings_carry_the_configured_values():
    learner = Learner(gamma=0.9, epochs=7, algorithm="reinforce", baseline="ema", optimizer="sgd")
    settings = learner.settings()
    assert (settings.gamma, settings.epochs, settings.baseline, settings.optimizer) == (0.9, 7, "ema", "sgd")


@pytest.mark.parametrize("key", sorted(Learner.model_fields.keys() - NOT_LEARNING))
@pytest.mark.parametrize("value", [-1, 0, 1, 0.5, 0.999, 1.5, 5])
def test_learner_bounds_are_those_of_the_learner(tmp_path, key, value):
    text = (
        f'[learner]\nalgorithm = "reinforce"\n{key} = {value}'
        if key != "algorithm"
        else "[learner]\nalgorithm = 3"
    )
    try:
        load_config(write(tmp_path, text), {})
    except ConfigError:
        with pytest.raises(InvalidSetting):
            LearnerSettings(**{"algorithm": "reinforce", key: value})
    else:
        LearnerSettings(**{"algorithm": "reinforce", key: value})


@pytest.mark.parametrize(
    ("text", "table", "key", "said"),
    [
        (
            '[admission]\nmax_age_s = "1h"',
            "admission",
            "max_age_s",
            ['"1h"', "number of seconds > 0", "without quotes"],
        ),
        ("[admission]\nmax_age_s = -5", "admission", "max_age_s", ["-5", "> 0"]),
        (
            "[admission]\nmax_age_m = 60",
            "admission",
            "max_age_m",
            ["60", "did you mean max_age_s", "seconds"],
        ),
        ("[admission]\nmax_staleness = true", "admission", "max_staleness", ["true", "an integer >= 0"]),
        ("[admission]\nmax_staleness = 3.5", "admission", "max_staleness", ["3.5", "an integer >= 0"]),
        ('[admission]\nwidth = "loose"', "admission", "width", ['"loose"', '"strict" or "padded"']),
        ("[admission]\nmax_file_bytes = 100000000", "admission", "max_file_bytes", ["<= 67108864"]),
        ("[batch]\nmax_wait_s = -0.1", "batch", "max_wait_s", ["-0.1", "seconds >= 0"]),
        ("[batch]\nmax_waits = 3", "batch", "max_waits", ["did you mean max_wait_s"]),
        ("[batch]\nmin_episods = 3", "batch", "min_episods", ["did you mean min_episodes"]),
        ("[batch]\ngamma = 0.9", "batch", "gamma", ["belongs under [learner]"]),
        ("[batch]\nreuse = 0.9", "batch", "reuse", ["0.9", "a number >= 1"]),
        ('[batch]\nreuse = 2\n[learner]\nalgorithm = "reinforce"', "batch", "reuse", ["2", "1.0 with"]),
        ("[learner]\ngamma = nan", "learner", "gamma", ["NaN", ">= 0 and <= 1"]),
        ("[learner]\nlearning_rate = inf", "learner", "learning_rate", ["Infinity", "> 0"]),
        ("[learner]\nthreads = 0", "learner", "threads", ["0", '"auto" or an integer >= 1']),
        ('[learner]\ndevice = "gpu"', "learner", "device", ['"gpu"', '"auto" or "cpu" or "cuda"']),
        ('[learner]\nbaseline = "ema"', "learner", "baseline", ['"ema"', '"value" with algorithm "ppo"']),
        ('[learner]\nlr_scaling = "sum"', "learner", "lr_scaling", ['"sum"', '"sqrt"']),
        ("[policy]\nhidden = [64, 0]", "policy", "hidden", ["[64, 0]", "integers >= 1"]),
        ("[policy]\nobservation_shape = 4", "policy", "observation_shape", ["4", "[4]"]),
        ('[policy]\naction = { kind = "discrete" }', "policy", "action", ["n = 2", "Field required"]),
        ('[policy]\naction = { kind = "box", n = 3 }', "policy", "action", ['"box"', 'kind = "continuous"']),
        (
            '[policy]\nobservation = { kind = "image", shape = [5, 5] }',
            "policy",
            "observation",
            ["[5, 5]", "image"],
        ),
        (
            '[policy]\nobservation = { kind = "dict", spaces = { a = { kind = "ball" } } }',
            "policy",
            "observation",
            ["ball", "tuple"],
        ),
        (
            '[policy]\nobservation = { kind = "dict", spaces = { "a.b" = { kind = "box", shape = [1] } } }',
            "policy",
            "observation",
            ["a.b", "accepted"],
        ),
        (
            '[policy]\nobservation = { kind = "box", shape = [4] }\nobservation_shape = [4]',
            "policy",
            "observation_shape",
            ["[4]", "nothing beside observation"],
        ),
        ('[policy]\nobservation_shape = [4]\nnetwork = "conv"', "policy", "network", ['"conv"', "image"]),
        (
            '[policy]\nobservation = { kind = "image", shape = [5, 5, 1] }\nnetwork = "embedding"',
            "policy",
            "network",
            ['"embedding"', "discrete and multi_discrete"],
        ),
        ('[policy]\nnetwork = "rnn"', "policy", "network", ['"rnn"', '"conv" or "embedding"']),
        ('[daemon]\nname = "../x"', "daemon", "name", ["letters"]),
        ('[schedule]\nquiet = ["0 9 * * *"]', "schedule", "quiet", ["0 9 * * *", "for 6h", "0: Value error"]),
        ('[schedule]\nquiet = ["0 9 * * * for 8d"]', "schedule", "quiet", ["longer than 7d"]),
        ('[schedule]\nquiet = ["0 9 * * * for ever"]', "schedule", "quiet", ["'ever' is not a length"]),
        ('[schedule]\nquiet = "18:00-24:00"', "schedule", "quiet", ["18:00-24:00", "a list of windows"]),
        ('[schedule]\ntrain = "never"', "schedule", "train", ['"always" or a list of windows']),
        ("[schedule]\ntrain = []", "schedule", "train", ['"always" or a list of windows']),
        ("[schedule]\nbusy_max_s = 0", "schedule", "busy_max_s", ["a number of seconds > 0"]),
        ("[disk]\nmin_free_bytes = -1", "disk", "min_free_bytes", ["an integer of bytes >= 0"]),
        ('[schedule]\ncompact = "30 25 * * *"', "schedule", "compact", ["five cron fields"]),
        ('[telemetry]\nhttp = ":9000"', "telemetry", "http", ['":9000"', "127.0.0.1:8642"]),
        ('[telemetry]\nhttp = "127.0.0.1"', "telemetry", "http", ["and a port"]),
        ('[telemetry]\nhttp = "127.0.0.1:70000"', "telemetry", "http", ["and a port"]),
        ('[telemetry]\nhttp = "::1:80"', "telemetry", "http", ["[::1]:8642"]),
        ('[telemetry]\nhttp = "box.lan:80"', "telemetry", "http", ["an IP address"]),
        ('[telemetry]\nhttp = "0.0.0.0:80"', "telemetry", "http", ["0.0.0.0", "or token_file too"]),
        ('[telemetry]\nhttp = "[::]:80"', "telemetry", "http", ["[::]", "or token_file too"]),
        ("[telemetry]\ntoken_file = 3", "telemetry", "token_file", ["a file's name"]),
        ("[telemetry]\ntensorboard = 1", "telemetry", "tensorboard", ["true or false"]),
        ("[history]\nkeep_cycles = 0", "history", "keep_cycles", ["an integer >= 1"]),
        ("[history]\nkeep_days = 3", "history", "keep_days", ["no such key"]),
        ('[merge]\nweighting = "time"', "merge", "weighting", ['"none"', '"episodes"', '"age"']),
        ("[merge]\nhalf_life_s = 0", "merge", "half_life_s", ["0", "> 0"]),
        ('[rollback]\nmode = "on"', "rollback", "mode", ['"on"', '"off" or "alarm" or "auto"']),
        ('[rollback]\ntest = "t"', "rollback", "test", ['"t"', '"mann_whitney" or "welch"']),
        ("[rollback]\nlevel = 0", "rollback", "level", ["0", "> 0 and < 1"]),
        ("[rollback]\nmin_episodes = 4", "rollback", "min_episodes", ["4", ">= 8 and <= 1024"]),
        ("[rollback]\nmin_effect = -1.0", "rollback", "min_effect", ["-1.0", ">= 0"]),
        ("[paths]\nspool = 3", "paths", "spool", ["a folder's name"]),
        ('[paths]\nstate = "spool/state"', "paths", "state", ["apart from spool"]),
        ("policy = 3", "policy", "", ["a table, [policy]"]),
        ("max_age_s = 60", "", "max_age_s", ["belongs under [admission]"]),
        ("[sotre]\nkeep_last = 3", "", "sotre", ["did you mean [store]"]),
        ('"a\\nb" = 3', "", "a\nb", ["a\\nb"]),
    ],
)
def test_an_error_names_table_key_value_and_what_is_accepted(tmp_path, text, table, key, said):
    (problem,) = problems(tmp_path, text)
    assert (problem.table, problem.key) == (table, key)
    assert problem.source == str(tmp_path / "config.toml")
    assert all(part in str(problem) for part in said), str(problem)
    assert str(problem).startswith(f"{tmp_path / 'config.toml'}: ")


def test_every_wrong_key_is_reported_at_once(tmp_path):
    found = problems(tmp_path, '[batch]\nmin_episodes = 0\nmax_steps = "x"\n[learner]\nepochs = -1')
    assert [(p.table, p.key) for p in found] == [
        ("learner", "epochs"),
        ("batch", "min_episodes"),
        ("batch", "max_steps"),
    ]


@pytest.mark.parametrize(
    "text", ["[batch]\nmin_episodes = \n", "[batch\n", "a = 1\na = 2", "x = " + "[" * 100_000]
)
def test_what_is_no_toml_is_named_with_its_line(tmp_path, text):
    (problem,) = problems(tmp_path, text)
    assert "no TOML" in str(problem)
    assert re.search(r"\(at line \d|\(at end of document|recursion", str(problem)), str(problem)


def test_bytes_that_are_no_text_are_named(tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"[paths]\nspool = '\xff'")
    with pytest.raises(ConfigError, match="no TOML"):
        load_config(file, {})


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_an_unreadable_file_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match="not readable"):
        load_config(tmp_path / name, {})


def test_environment_overrides_in_toml_syntax_or_as_text(tmp_path):
    env = {
        "LEARNERD_BATCH_MAX_WAIT_S": "2.5",
        "LEARNERD_POLICY_HIDDEN": "[8, 8]",
        "LEARNERD_POLICY_ACTION": '{ kind = "continuous", shape = [2] }',
        "LEARNERD_POLICY_OBSERVATION_SHAPE": "[3]",
        "LEARNERD_PATHS_SPOOL": "/srv/drop box",
        "LEARNERD_PATHS_STATE": "here",
        "LEARNERD_TELEMETRY_LEVEL": "debug",
        "LEARNERD_DAEMON_NAME": "'7'",
    }
    config = load_config(write(tmp_path, "[batch]\nmax_wait_s = 9\nmin_episodes = 3"), env)
    assert (config.batch.max_wait_s, config.batch.min_episodes) == (2.5, 3)
    assert config.policy.hidden == (8, 8)
    assert config.policy.action_space() == ContinuousSpace(size=2)
    assert config.paths.spool == Path("/srv/drop box")
    assert config.paths.state == tmp_path / "here"
    assert (config.telemetry.level, config.daemon.name) == ("debug", "7")


def test_a_wrong_environment_value_names_the_variable(tmp_path):
    (problem,) = problems(tmp_path, "", {"LEARNERD_BATCH_MIN_EPISODES": "many"})
    assert str(problem).startswith("$LEARNERD_BATCH_MIN_EPISODES: [batch] min_episodes is")
    (problem,) = problems(tmp_path, "", {"LEARNERD_ADMISSION_MAX_AGE_M": "3"})
    assert "did you mean max_age_s" in str(problem)
    (problem,) = problems(tmp_path, "", {"LEARNERD_ADMISION_MAX_AGE_S": "3"})
    assert "did you mean LEARNERD_ADMISSION_MAX_AGE_S" in str(problem)


def test_an_environment_value_cannot_smuggle_other_keys(tmp_path):
    (problem,) = problems(tmp_path, "", {"LEARNERD_BATCH_MIN_EPISODES": "1\n[learner]\ngamma=0.1"})
    assert problem.key == "min_episodes"


def test_variables_of_others_are_left_alone(tmp_path):
    env = {"LEARNERD_PORT": "tcp://1", "LEARNERD_SERVICE_HOST": "10.0.0.1", "LEARNERD_DEBUG": "1"}
    assert load_config(write(tmp_path, ""), env) == load_config(write(tmp_path, ""), {})


def test_search_order(tmp_path, monkeypatch):
    work, home, named = tmp_path / "work", tmp_path / "home", tmp_path / "named.toml"
    user = home / ".config" / "learnerd" / "config.toml"
    user.parent.mkdir(parents=True)
    work.mkdir()
    monkeypatch.chdir(work)
    env = {"HOME": str(home)}
    with pytest.raises(ConfigError, match=r"not found; accepted: one of config\.toml, ") as caught:
        load_config(None, env)
    assert str(user) in str(caught.value)
    user.write_text("")
    assert load_config(None, env).file == user
    with pytest.raises(ConfigError, match=r"named\.toml: not readable"):
        load_config(None, {**env, "LEARNERD_CONFIG": str(named)})
    named.write_text("")
    assert load_config(None, {**env, "LEARNERD_CONFIG": str(named)}).file == named
    (work / "config.toml").write_text("")
    assert load_config(None, {**env, "LEARNERD_CONFIG": str(named)}).file == work / "config.toml"
    assert load_config(named, env).file == named
    xdg = tmp_path / "xdg" / "learnerd" / "config.toml"
    xdg.parent.mkdir(parents=True)
    xdg.write_text("")
    (work / "config.toml").unlink()
    assert load_config(None, {**env, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}).file == xdg


def test_relative_paths_follow_the_file_not_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, '[paths]\nspool = "a/in"\nstate = "/var/b"')
    monkeypatch.chdir("/")
    config = load_config(tmp_path / "config.toml", {})
    assert (config.paths.spool, config.paths.state) == (tmp_path / "a/in", Path("/var/b"))


def test_config_is_frozen(tmp_path):
    config = load_config(write(tmp_path, ""), {})
    with pytest.raises(ValueError, match="frozen"):
        config.batch.min_episodes = 3


def test_digest_covers_what_changes_learning_and_nothing_else():
    base = Config().digest()
    assert re.fullmatch("[0-9a-f]{64}", base)
    assert Config.model_validate({"learner": {"gamma": 0.98}}).digest() != base
    assert Config.model_validate({"policy": {"hidden": [32]}}).digest() != base
    assert Config.model_validate({"admission": {"max_age_s": 60}}).digest() != base
    assert Config.model_validate({"paths": {"spool": "elsewhere"}}).digest() == base
    assert Config.model_validate({"telemetry": {"level": "debug"}}).digest() == base
    assert Config.model_validate({"learner": {"learning_rate": 1}}).digest() == (
        Config.model_validate({"learner": {"learning_rate": 1.0}}).digest()
    )


def test_observation_space():
    parts = {"view": {"kind": "image", "shape": (5, 5, 1)}, "word": {"kind": "discrete", "n": 40, "start": 1}}
    policy = Config.model_validate(
        {"policy": {"observation": {"kind": "dict", "spaces": parts}, "network": "conv"}}
    ).policy
    view, word = ImageSpace(shape=(5, 5, 1)), DiscreteSpace(n=40, start=1)
    assert policy.observation_space() == DictSpace({"view": view, "word": word})
    spec = policy.spec(policy.observation_space(), DiscreteSpace(n=2))
    assert (spec.encoders, spec.hidden) == (("conv", "embedding"), (64, 64))
    assert Config().policy.observation_space() is None
    shape = Config.model_validate({"policy": {"observation_shape": (2, 3)}}).policy
    assert shape.observation_space() == BoxSpace(shape=(2, 3))
    spec = shape.spec(shape.observation_space(), DiscreteSpace(n=2))
    assert (spec.observation, spec.encoders, spec.observation_shape) == (None, (), (2, 3))


def test_action_space():
    assert Config().policy.action_space() is None
    config = Config.model_validate({"policy": {"action": {"kind": "discrete", "n": 3}}})
    assert config.policy.action_space() == DiscreteSpace(n=3)


@pytest.mark.parametrize("line", ["* * * * *", "*/5 0-6 1,15 jan-mar mon-fri", "0 0 31 12 6"])
def test_cron_lines_that_are_accepted(line):
    assert Config.model_validate({"schedule": {"compact": line}}).schedule.compact == line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "a * * * *",
        "*/0 * * * *",
        "@daily",
        "0 0 * foo *",
        "0 0 * * mon-xyz",
        "5-1 * * * *",
    ],
)
def test_cron_lines_that_are_not(tmp_path, line):
    (problem,) = problems(tmp_path, f'[schedule]\ncompact = "{line}"')
    assert problem.key == "compact"


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
)


@given(
    table=st.sampled_from(sorted(Config.model_fields)),
    key=st.text(max_size=5) | st.sampled_from(["hidden", "action", "threads", "quiet", "seed", "spool"]),
    value=SCALARS,
)
def test_any_value_gives_a_config_or_an_error_that_says_where(table, key, value):
    from pydantic import ValidationError  # noqa: PLC0415

    from learnerd import config_problems  # noqa: PLC0415

    found = {table: {key: value}}
    try:
        Config.model_validate(found)
    except ValidationError as error:
        for problem in config_problems.explain(error, Config, file="f", found=found, origins={}):
            assert problem.table == table
            assert "\n" not in str(problem)
            assert problem.accepted


def test_loading_a_config_loads_nothing_heavy():
    code = "import sys, learnerd.config; print(*{'torch', 'numpy', 'pyarrow', 'policies'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        == "\n"
    )


def test_template_is_toml():
    assert tomllib.loads(TEMPLATE.read_text(encoding="utf-8"))["admission"]["max_age_s"] == 3600
