"""The guide to recording: its examples run as they stand there, and what they deposit is learned."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(
    r"<!-- example -->\n```python\n(.*?)```", (ROOT / "learnerd/docs/recording.md").read_text(), re.DOTALL
)
HEADER = "episode_id,step,obs.0,obs.1,obs.2,obs.3,side,profit,terminated"
ROWS = ["a,0,1,2,3,4,1,0.5,0", "a,1,4,3,2,1,0,1.5,1"]


def learn(site):
    """What the daemon says after learning from all there is."""
    assert site.run_here() == 0
    return site.status()["episodes"]


@pytest.mark.parametrize(("example", "deposited"), [(0, 20), (1, 1)])
def test_an_example_deposits_what_the_daemon_learns(site, example, deposited):
    site.folder.joinpath("mybot").symlink_to(site.folder)
    program = EXAMPLES[example]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=env, cwd=site.folder, check=True, timeout=100)
    episodes = learn(site)
    assert (episodes["learned"], episodes["refused"], episodes["quarantined"]) == (deposited, {}, {})
    if example == 1:
        (episode,) = site.archived(1)
        assert episode.reward.tolist() == [1.25, -0.5]


def test_the_table_of_the_guide_is_imported_with_its_names_mapped(site):
    (site.folder / "trades.csv").write_text("\n".join([HEADER, *ROWS]))
    done = site.learnerd("import", "trades.csv", "--map", "reward=profit", "--map", "action=side")
    assert done.returncode == 0, done.stderr
    assert learn(site)["learned"] == 1
    (episode,) = site.archived(1)
    assert (episode.reward.tolist(), episode.action.tolist()) == ([0.5, 1.5], [1, 0])
