"""History and dashboard beside a real daemon: what they show, and that nothing of them reaches it."""

import itertools
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from status_schema import check_schema

from learnerd.history import DAMAGED_NAME, FILE_NAME, read_points
from learnerd.tensorboard_events import FOLDER_NAME

TOKEN = "sesame-open-sesame"
SOON = "import learnerd.dashboard.process as p; p.DashboardProcess.__init__.__kwdefaults__['retry_s'] = 0.2"


def url(site):
    """Where the dashboard says that it listens."""
    found = [json.loads(line) for line in site.log().splitlines() if '"dashboard_ready"' in line]
    return found[-1]["url"] if found else None


def get(address, token=TOKEN):
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode()


def listener(address):
    """The process that listens there."""
    port = int(address.rstrip("/").rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"socket:[{inode}]" in [str(link.readlink()) for link in (process / "fd").iterdir()]:
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(address)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def alarm_ids(site):
    return {alarm["id"] for alarm in json.loads((site.state / "status.json").read_text())["alarms"]}


def test_history_and_tensorboard_have_every_cycle(site, drop):
    pytest.importorskip("tensorboard", reason="the extra learnerd[tb] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    site.configure("[telemetry]\ntensorboard = true\n")
    for _ in range(70):
        drop()
    result = site.learnerd("run", "--until-idle")
    assert result.returncode == 0, result.stderr
    found = read_points(site.state)
    cycles = list(range(1, len(found["version"]) + 1))  # two, or more when reading was slow
    assert found["version"] == cycles
    assert list(itertools.accumulate(found["episodes"])) == found["learned"]
    assert found["learned"][-1] == 70
    for name in ("return_mean", "loss", "entropy", "kl", "ess_fraction", "lag_s", "update_s", "lr"):
        assert all(isinstance(value, float) for value in found[name]), name
    assert min(found["lag_s"]) >= 0
    check_schema(site.status())
    events = EventAccumulator(str(site.state / FOLDER_NAME))
    events.Reload()
    written = events.Tensors("entropy")
    assert [event.step for event in written] == cycles
    assert [event.tensor_proto.float_val[0] for event in written] == pytest.approx(found["entropy"])


def test_a_reload_begins_the_dashboard_anew_and_the_history_goes_on(site, drop):
    config = '[telemetry]\nhttp = "127.0.0.1:0"\n[batch]\nmin_episodes = 1\n'
    site.configure(config)
    process = site.start()
    site.wait(lambda: url(site) is not None, what="the dashboard")
    first = url(site)
    old = listener(first)
    drop()
    site.wait(lambda: json.loads(get(f"{first}history.json"))["columns"]["version"] == [1], what="a row")
    site.configure(config + "max_chunks = 4\n")
    process.send_signal(signal.SIGHUP)
    site.wait(lambda: url(site) != first, what="another dashboard")
    assert gone(old)
    drop()
    again = url(site)
    site.wait(
        lambda: json.loads(get(f"{again}history.json"))["columns"]["version"] == [1, 2], what="both rows"
    )
    dashboard = listener(again)
    assert site.stop(process) == 0
    assert gone(dashboard)


@pytest.mark.slow
def test_a_dashboard_and_a_damaged_history(site, drop):
    site.state.mkdir()
    (site.state / FILE_NAME).write_bytes(b"no database" * 1000)
    (site.folder / "token").write_text(TOKEN + "\n")
    site.configure('[telemetry]\nhttp = "127.0.0.1:0"\ntoken_file = "token"\n')
    process = site.start(SOON)
    site.wait(lambda: url(site) is not None, what="the dashboard")
    drop()
    first = url(site)
    site.wait(lambda: json.loads(get(f"{first}history.json"))["columns"]["version"] == [1], what="a row")
    assert (site.state / DAMAGED_NAME).read_bytes().startswith(b"no database")
    site.wait(lambda: "history_damaged" in alarm_ids(site), what="the notice")
    assert site.learnerd("status").returncode == 0
    assert json.loads(get(f"{first}status.json"))["policy"]["version"] == 1
    (row,) = json.loads(get(f"{first}versions.json"))
    assert (row["version"], row["standing"], row["writer"]) == (1, "current", "daemon")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{first}metrics", token=None)

    os.kill(listener(first), signal.SIGKILL)
    site.wait(lambda: url(site) != first, what="another dashboard")
    assert "learnerd_up 1\n" in get(f"{url(site)}metrics")
    assert TOKEN not in site.log()

    dashboard = listener(url(site))
    process.kill()
    process.wait()
    site.wait(lambda: gone(dashboard), what="the dashboard to end with its daemon")


def test_a_port_in_use_and_a_history_that_cannot_be_written_are_alarms_and_learning_goes_on(site, drop):
    (site.state / FILE_NAME).mkdir(parents=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site.configure(f'[telemetry]\nhttp = "127.0.0.1:{taken.getsockname()[1]}"\n')
        process = site.start()
        for version in (1, 2):
            drop()
            site.wait(lambda: site.current() == version, what="a version")  # noqa: B023 - waited for here
        site.wait(lambda: {"dashboard_down", "history_not_written"} <= alarm_ids(site), what="the alarms")
        assert site.learnerd("status").returncode == 4
        assert site.stop(process) == 0


def test_without_the_extra_the_error_names_it(site):
    site.configure("[telemetry]\ntensorboard = true\n")
    result = site.run_patched("import importlib.util as u; u.find_spec = lambda name: None")
    assert result.returncode == 6
    assert "pip install 'learnerd[tb]'" in result.stderr
    assert "[telemetry] tensorboard" in result.stderr
