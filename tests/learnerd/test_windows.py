"""Cron lines and windows, against a second version that looks at every minute, and over both DST changes."""

import datetime as dt
import itertools
import os
import time
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st

from learnerd.cron import WEEKDAYS, Cron
from learnerd.durations import seconds_of
from learnerd.windows import Calendar, QuietHours, Window

BERLIN = ZoneInfo("Europe/Berlin")  # 29 March 2026, 02:00 -> 03:00; 25 October 2026, 03:00 -> 02:00
HOUR = 3600.0


def at(text, zone=BERLIN, fold=0):
    return dt.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def spell(text, moment, *, zone=BERLIN):
    windows = [Window.parse(text)] if isinstance(text, str) else [Window.parse(one) for one in text]
    return Calendar(windows, zone).spell(moment)


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon tue wed thu fri"),
        ("5-7", "fri sat sun"),
        ("fri-mon", "fri sat sun mon"),
        ("sat,sun", "sat sun"),
        ("sun-thu", "sun mon tue wed thu"),
        ("*/2", "sun tue thu sat"),
        ("*", "sun mon tue wed thu fri sat"),
    ],
)
def test_weekdays_are_those_of_cron(field, days):
    cron = Cron.parse(f"0 0 * * {field}")
    assert {WEEKDAYS[number] for number in cron.weekdays} == set(days.split())


def test_the_calendar_job_runs_on_the_weekday_that_cron_means():
    trigger = CronTrigger(**Cron.parse("30 3 * * 0").apscheduler(), timezone=dt.UTC)
    fires = trigger.get_next_fire_time(None, dt.datetime(2026, 11, 21, tzinfo=dt.UTC))  # a Saturday
    assert fires == dt.datetime(2026, 11, 22, 3, 30, tzinfo=dt.UTC)


def test_fields_of_a_cron_line():
    cron = Cron.parse("*/20,59 8-10,22 1-10/4 JAN,3-4 *")
    assert cron.minutes == {0, 20, 40, 59}
    assert cron.hours == {8, 9, 10, 22}
    assert cron.days == {1, 5, 9}
    assert cron.months == {1, 3, 4}
    assert Cron.parse("5/20 * * * *").minutes == {5, 25, 45}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("30min", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1w", 604800),
    ],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-1h", "0s", "1h30", "1e3s", "ever", "99999999999d"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is not a length of time such as"):
        seconds_of(text)


def test_inside_outside_and_when_that_changes():
    evening = "0 18 * * mon-fri for 6h"
    found = spell(evening, at("2026-11-20T19:30"))  # a Friday
    assert (found.inside, found.since, found.until) == (True, at("2026-11-20T18:00"), at("2026-11-21T00:00"))
    found = spell(evening, at("2026-11-21T00:00"))
    assert (found.inside, found.since, found.until) == (False, at("2026-11-21T00:00"), at("2026-11-23T18:00"))
    assert spell(evening, at("2026-11-23T18:00")).inside
    assert not spell(evening, at("2026-11-23T18:00") - 0.001).inside


def test_a_window_goes_over_midnight_month_and_year():
    found = spell("0 22 31 12 * for 5h", at("2027-01-01T02:59"))
    assert (found.inside, found.until) == (True, at("2027-01-01T03:00"))
    assert not spell("0 22 31 12 * for 5h", at("2027-01-01T03:00")).inside


def test_windows_that_touch_or_overlap_are_one():
    found = spell(["0 8 * * * for 4h", "0 12 * * * for 1h", "30 12 * * * for 1h"], at("2026-06-01T09:00"))
    assert (found.since, found.until) == (at("2026-06-01T08:00"), at("2026-06-01T13:30"))


def test_no_end_is_told_of_windows_that_never_end():
    found = spell("0 0 * * * for 24h", at("2026-06-01T09:00"))
    assert (found.inside, found.until) == (True, None)
    assert spell("* * * * * for 1m", at("2026-06-01T09:00:30")).until is None


def test_the_next_beginning_may_be_years_away():
    found = spell("0 12 29 2 * for 1h", at("2096-03-01T00:00"))
    assert (found.inside, found.until) == (False, at("2104-02-29T12:00"))
    assert spell("0 12 30 2 * for 1h", at("2026-03-01T00:00")).until is None


# Summer time.


def test_in_spring_a_window_lasts_as_long_as_ever():
    found = spell("0 1 * * * for 4h", at("2026-03-29T03:30"))
    assert found.until - found.since == 4 * HOUR
    assert found.until == at("2026-03-29T06:00")  # one hour later by the wall clock
    assert spell("0 1 * * * for 4h", at("2026-03-28T03:30")).until == at("2026-03-28T05:00")


def test_in_spring_a_beginning_that_is_left_out_comes_all_the_same():
    text = "30 2 * * * for 1h"
    assert not spell(text, at("2026-03-29T03:29")).inside  # 29 minutes after 01:59
    found = spell(text, at("2026-03-29T03:30"))
    assert (found.inside, found.until) == (True, at("2026-03-29T04:30"))


def test_in_autumn_a_beginning_that_comes_twice_counts_once():
    text = "30 2 * * * for 30m"
    assert spell(text, at("2026-10-25T02:45", fold=0)).inside
    assert spell(text, at("2026-10-25T02:45", fold=0)).until == at("2026-10-25T02:00", fold=1)
    assert not spell(text, at("2026-10-25T02:45", fold=1)).inside


def test_in_autumn_a_window_that_began_before_the_change_is_seen_after_it():
    text = "45 2 * * * for 1h"  # from 02:45 summer time to 02:45 winter time
    assert spell(text, at("2026-10-25T02:10", fold=1)).inside
    assert spell(text, at("2026-10-25T02:10", fold=1)).until == at("2026-10-25T02:45", fold=1)
    assert not spell(text, at("2026-10-25T02:45", fold=1)).inside


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_the_clock_of_the_machine_is_that_of_its_zone(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for moment in range(int(at("2026-01-01")), int(at("2027-01-01")), 12_345_67):
            text = ["30 2 * * * for 3h", "0 18 * * sat,sun for 5h"]
            assert spell(text, moment, zone=None) == spell(text, moment, zone=ZoneInfo(zone))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert os.environ.get("TZ") != zone


def slowly(texts, moment):
    """Whether any minute since began a window that still lasts: each minute of real time is looked at."""
    for text in texts:
        window = Window.parse(text)
        cron = window.cron
        wall_before = None
        minute = int(moment - window.length_s - 2 * HOUR) // 60 * 60
        begun = set()
        for now in range(minute, int(moment) + 1, 60):
            wall = dt.datetime.fromtimestamp(now, BERLIN).replace(tzinfo=None)
            steps = [wall]
            if wall_before is not None and wall - wall_before > dt.timedelta(minutes=1):  # left out in spring
                left_out = [wall_before + dt.timedelta(minutes=i) for i in range(1, 61)]
                begun |= {(one, now + 60.0 * i) for i, one in enumerate(left_out) if matches(cron, one)}
            for one in steps:
                if matches(cron, one) and one not in {w for w, _ in begun}:
                    begun.add((one, float(now)))
            wall_before = wall
        if any(begin <= moment < begin + window.length_s for _, begin in begun):
            return True
    return False


def matches(cron, wall):
    return (
        wall.minute in cron.minutes
        and wall.hour in cron.hours
        and wall.day in cron.days
        and wall.month in cron.months
        and wall.isoweekday() % 7 in cron.weekdays
    )


TEXTS = (
    "30 2 * * * for 45m",
    "*/15 1-3 * * sun for 10m",
    "59 1 * * * for 2h",
    "0 3 * * * for 1h1m",
    "0 0 * * 6 for 26h",
)


@given(
    change=st.sampled_from([at("2026-03-29T03:00"), at("2026-10-25T02:00", fold=1), at("2026-06-15T03:00")]),
    offset_s=st.integers(-6 * 3600, 6 * 3600),
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2),
)
def test_a_slow_second_version_agrees(change, offset_s, texts):
    moment = change + offset_s + 0.5
    assert spell(texts, moment).inside == slowly(texts, moment)


@given(start=st.integers(0, 40 * 24 * 60), texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2))
def test_the_answer_holds_until_the_end_that_it_tells(start, texts):
    now = at("2026-03-01") + 60.0 * start
    found = spell(texts, now)
    for other in (now, (now + found.valid_until) / 2, found.valid_until - 0.001):
        assert spell(texts, other).inside == found.inside
    if found.until is not None and found.until == found.valid_until:
        assert spell(texts, found.until).inside != found.inside


# Quiet hours and training windows together.


def quiet_at(text, *, quiet=(), train=None):
    windows = [Window.parse(one) for one in quiet]
    hours = QuietHours(windows, None if train is None else [Window.parse(one) for one in train], BERLIN)
    return hours.spell(at(text))


def test_without_windows_it_is_never_quiet():
    found = quiet_at("2026-06-01T12:00")
    assert (found.inside, found.until) == (False, None)


def test_outside_of_training_windows_it_is_quiet():
    night = ["0 1 * * * for 5h"]
    found = quiet_at("2026-06-01T12:00", train=night)
    assert (found.inside, found.since, found.until) == (True, at("2026-06-01T06:00"), at("2026-06-02T01:00"))
    found = quiet_at("2026-06-01T02:00", train=night)
    assert (found.inside, found.until) == (False, at("2026-06-01T06:00"))


def test_quiet_wins_and_the_end_is_when_learning_is_allowed_again():
    found = quiet_at("2026-06-01T23:30", train=["0 1 * * * for 5h"], quiet=["0 0 2 6 * for 2h"])
    assert (found.inside, found.until) == (True, at("2026-06-02T02:00"))
    found = quiet_at("2026-06-01T23:30", train=["0 1 * * * for 5h"], quiet=["0 0 * * * for 7h"])
    assert (found.inside, found.until) == (True, None)  # never


def test_steps_of_every_hour_over_a_year_are_consistent():
    hours = QuietHours([Window.parse("0 18 * * mon-fri for 6h")], [Window.parse("0 8 * * * for 14h")], BERLIN)
    moments = itertools.islice(itertools.count(at("2026-01-01"), 7 * HOUR), 1250)
    for now in moments:
        wall = dt.datetime.fromtimestamp(now, BERLIN)
        is_evening = wall.isoweekday() <= 5 and wall.hour >= 18
        assert hours.spell(now).inside == (is_evening or not 8 <= wall.hour < 22)
