"""``learnerd import`` as a command, and what the daemon makes of what it leaves."""

import json


def rows(episodes):
    lines = ["episode_id,obs.0,obs.1,action,reward,logp,terminated"]
    for name in range(episodes):
        lines += [
            f"e{name},{name % 7}.5,{step}.25,{step % 2},{step},-0.6931471805599453,{int(step == 3)}"
            for step in range(4)
        ]
    return "\n".join(lines) + "\n"


def test_a_table_is_learned_from_and_again_it_is_a_duplicate(site):
    (site.folder / "log.csv").write_text(rows(300))
    done = site.learnerd("import", "log.csv", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found[name] for name in ("files", "episodes", "steps", "lost")} == {
        "files": 2,
        "episodes": 300,
        "steps": 1200,
        "lost": {},
    }
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert site.status()["episodes"]["learned"] == 300
    exported = site.learnerd("export", "--format", "csv", "--out", "back.csv")
    assert exported.returncode == 0, exported.stderr
    assert len((site.folder / "back.csv").read_text().splitlines()) == 1 + 1200
    assert site.learnerd("export", "--format", "csv").returncode == 2
    assert site.learnerd("export", "99", "--format", "csv", "--out", "none.csv").returncode == 9
    assert site.learnerd("import", "log.csv").stdout.startswith("300 episodes, 1,200 steps, in 2 files")
    assert site.learnerd("run", "--until-idle").returncode == 0
    assert site.status()["episodes"]["learned"] == 300


def test_what_cannot_be_imported_exactly_needs_a_word(site):
    path = site.folder / "log.csv"
    path.write_text("episode_id,obs,action,reward,terminated,truncated\na,1,0,1,0,0\na,2,1,5,0,1\n")
    refused = site.learnerd("import", "log.csv")
    assert refused.returncode == 1
    assert (
        "the last step, whose observation is what was seen at the end (1 episode); --lossy" in refused.stderr
    )
    assert not (site.folder / "spool/in").exists() or site.files("in") == []
    assert site.learnerd("import", "log.csv", "--lossy").returncode == 0
    assert len(site.files("in")) == 1


def test_a_bad_table_deposits_nothing(site):
    path = site.folder / "log.csv"
    path.write_text(rows(300).replace("e299,5.5,3.25", "e299,nan,3.25"))
    refused = site.learnerd("import", "log.csv")
    assert refused.returncode == 1
    assert "obs" in refused.stderr
    assert not (site.folder / "spool/in").exists() or site.files("in") == []
    assert site.learnerd("import", "none.csv").returncode == 1
    assert site.learnerd("import", "log.csv", "--map", "reward").returncode == 2
    assert site.learnerd("import", "log.csv", "--format", "hdf5").returncode == 2
