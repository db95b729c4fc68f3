import os
import sqlite3
import threading
import time

import pytest

from learnerd.config_tables import History as Keep
from learnerd.history import COLUMNS, DAMAGED_NAME, DAY_S, FILE_NAME, HOUR_S, MEANS, History, read_points
from learnerd.recorder import MAX_WAITING, Recorder
from learnerd.trend import BLOCKS, PLAIN, read_trend, sparkline

START = 1_700_000_000.0 // HOUR_S * HOUR_S


def row(at, version=1, *, episodes=1, value=1.0, **more):
    figures = dict.fromkeys(MEANS, value) | {"return_min": value, "return_max": value}
    counts = {"cycles": 1, "episodes": episodes, "steps": 10 * episodes}
    totals = {"learned": version, "refused": 0, "quarantined": 0, "updates": version}
    return {"at": at, "version": version, **counts, **totals, **figures, **more}


def spans(state):
    with sqlite3.connect(state / FILE_NAME) as database:
        return dict(database.execute("SELECT span_s, COUNT(*) FROM points GROUP BY span_s"))


@pytest.fixture
def write(tmp_path):
    """Write rows, a few at a time, as the daemon does."""
    histories = []

    def all_of(rows, **keep):
        history = History(tmp_path, Keep(**keep))
        histories.append(history)
        for begin in range(0, len(rows), 64):
            history.write(rows[begin : begin + 64])
        return history

    yield all_of
    for history in histories:
        history.close()


def test_what_is_written_is_read(tmp_path, write):
    write([row(START + i, i, value=float(i)) for i in range(5)])
    found = read_points(tmp_path)
    assert list(found) == list(COLUMNS)
    assert found["at"] == [START + i for i in range(5)]
    assert found["loss"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert read_points(tmp_path, since=START + 3)["version"] == [3, 4]
    assert read_points(tmp_path, until=START + 1, names=("version",)) == {"version": [0, 1]}
    assert read_points(tmp_path, last_s=1.5)["version"] == [3, 4]
    assert read_points(tmp_path, since=START + 99)["version"] == []


def test_no_history_is_empty(tmp_path):
    assert read_points(tmp_path)["at"] == []


def test_points_are_drawn_together_by_episodes(tmp_path, write):
    write(
        [
            row(START, 1, episodes=1, value=0.0),
            row(START + 1, 2, episodes=3, value=4.0, loss=None),
            row(START + 1000, 3),
        ]
    )
    found = read_points(tmp_path, points=2)
    assert found["return_mean"] == [3.0, 1.0]
    assert (found["return_min"][0], found["return_max"][0]) == (0.0, 4.0)
    assert found["loss"][0] == 0.0  # of the episodes that have one
    assert found["version"] == [2, 3]
    assert found["cycles"] == [2, 1]


def test_old_rows_become_minutes_and_hours_and_are_forgotten(tmp_path, write):
    rows = [row(START + 10.0 * i, i, value=float(i % 7)) for i in range(3 * DAY_S // 10)]
    write(rows, keep_cycles=1000, keep_minute_days=1.0, keep_hour_days=2.0)
    found = spans(tmp_path)
    assert 1000 <= found[0] < 1000 + 6 + 256
    assert found[60] == pytest.approx(1440 - 1000 / 6, abs=65)
    assert found[3600] == pytest.approx(24, abs=2)
    points = read_points(tmp_path, points=10_000)
    assert points["at"] == sorted(points["at"])
    kept_s = points["at"][-1] - points["at"][0]
    assert kept_s == pytest.approx(2 * DAY_S, abs=2 * HOUR_S)
    assert sum(points["cycles"]) == pytest.approx(kept_s / 10, abs=HOUR_S / 10 + 10)
    assert all(abs(value - 3.0) < 1.2 for value in points["return_mean"][:40])


def test_the_file_stays_small_however_long_it_goes_on(tmp_path, write):
    keep = {"keep_cycles": 500, "keep_minute_days": 0.05, "keep_hour_days": 0.5}
    rows = [row(START + 20.0 * i, i) for i in range(8000)]
    write(rows[:4000], **keep).close()
    before = (tmp_path / FILE_NAME).stat().st_size
    write(rows[4000:], **keep).close()
    assert (tmp_path / FILE_NAME).stat().st_size <= 1.2 * before


def test_a_clock_that_is_set_back_loses_nothing(tmp_path, write):
    write([row(START + i) for i in range(600)] + [row(START - 3000 + i) for i in range(600)], keep_cycles=300)
    assert sum(read_points(tmp_path)["cycles"]) == 1200


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_file_is_kept_aside_and_begun_anew(tmp_path, write, damage):
    write([row(START + i) for i in range(2000)]).close()
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    if damage == "middle":
        data[8192:16384] = os.urandom(8192)
    else:
        data = bytearray(b"SQLite" + os.urandom(5000)) if damage == "header" else bytearray(b"hello" * 999)
    file.write_bytes(data)
    history = History(tmp_path, Keep())
    assert history.write([row(START, 7)]) == tmp_path / DAMAGED_NAME
    assert history.write([row(START + 1, 8)]) is None
    history.close()
    assert read_points(tmp_path)["version"] == [7, 8]
    assert (tmp_path / DAMAGED_NAME).read_bytes() == data


def test_a_file_of_an_earlier_release_gets_the_new_columns(tmp_path):
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("CREATE TABLE points (span_s INTEGER NOT NULL, at REAL, version REAL, gone REAL)")
        database.execute("INSERT INTO points VALUES (0, ?, 1, 2)", (START,))
    history = History(tmp_path, Keep())
    history.write([row(START + 1, 2)])
    history.close()
    assert read_points(tmp_path)["version"] == [1, 2]


def test_it_is_read_while_it_is_written(tmp_path, write):
    history = write([row(START)])
    reading = read_points(tmp_path)
    history.write([row(START + 1)])
    assert len(reading["at"]) == 1
    assert len(read_points(tmp_path)["at"]) == 2


class Sink:
    def __init__(self):
        self.rows, self.fails, self.closed = [], None, False
        self.gate = threading.Event()
        self.gate.set()

    def write(self, rows):
        self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.rows += rows

    def close(self):
        self.closed = True


def wait(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_nobody_waits_for_a_disk_that_hangs():
    sink = Sink()
    sink.gate.clear()
    recorder = Recorder(sink, name="t", retry_s=0.05)
    for i in range(3 * MAX_WAITING):
        recorder.put(i)
    recorder.close()  # gives up on it
    assert not sink.closed
    sink.gate.set()
    wait(lambda: sink.closed)
    assert sink.rows[-1] == 3 * MAX_WAITING - 1


def test_rows_outlast_a_full_disk():
    sink = Sink()
    sink.fails = sqlite3.OperationalError("database or disk is full")
    recorder = Recorder(sink, name="t", retry_s=0.02)
    for i in range(5):
        recorder.put(i)
    wait(lambda: recorder.problem is not None)
    recorder.put(5)
    sink.fails = None
    wait(lambda: len(sink.rows) == 6)
    wait(lambda: recorder.problem is None)
    recorder.close()
    assert sink.rows == [0, 1, 2, 3, 4, 5]
    assert sink.closed


def test_a_folder_in_the_file_s_place_is_a_problem_and_no_more(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    recorder = Recorder(History(tmp_path, Keep()), name="t", retry_s=0.02)
    recorder.put(row(START))
    wait(lambda: recorder.problem is not None)
    (tmp_path / FILE_NAME).rmdir()
    wait(lambda: recorder.problem is None)
    recorder.close()
    assert read_points(tmp_path)["version"] == [1]


def test_the_trend_is_one_line(tmp_path, write):
    assert read_trend(tmp_path) is None
    write([row(START + i * 60, value=float(i)) for i in range(400)]).close()
    trend = read_trend(tmp_path)
    assert len(trend.returns) == 40
    assert trend.returns == sorted(trend.returns)
    line = sparkline(trend.returns)
    assert (line[0], line[-1], len(line)) == (BLOCKS[0], BLOCKS[-1], 40)
    assert sparkline([1.0, 1.0]) == 2 * BLOCKS[4]
    assert set(sparkline(trend.returns, "ascii")) == set(PLAIN)
    (tmp_path / FILE_NAME).write_bytes(b"damaged" * 999)
    assert read_trend(tmp_path) is None
