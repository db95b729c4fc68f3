import json
import re
import time

import pytest
from browser import Browser, find_chromium
from typer import BadParameter

from learnerd.cli.report import moment_of
from learnerd.report.curves import curve, number, ticks

EVIL = "<script>document.title='owned'</script>"


def test_a_report_of_what_was_learned(site, drop, tmp_path_factory):
    for _ in range(70):
        drop()
    drop(meta={"client_id": EVIL, "ended_at": time.time() - 7200})
    (site.inbox / "<i>x.exe").write_bytes(b"")
    assert site.learnerd("run", "--until-idle").returncode == 0
    result = site.learnerd("report", "--out", "r.html", "--since", "1d")
    assert (result.returncode, result.stdout) == (0, "wrote r.html\n"), result.stderr
    text = (site.folder / "r.html").read_text()
    assert "<script" not in text
    assert "<i>" not in text
    assert not re.search(r"(?:src|href|url)\s*[=(]", text)
    for part in (
        "too_old",
        "unknown_format",
        "Where version 2 comes from",
        "&lt;script&gt;document",
        "current",
    ):
        assert part in text
    assert text.count('class="line"') >= 7
    sha256 = site.manifest(2)["files"]["model.safetensors"]["sha256"]
    assert sha256 in text
    assert re.search(r"episodes of its own</td><td[^>]*>6<", text)
    assert re.search(r"<td>bot</td><td[^>]*>6<", text)
    assert "archive" in text
    program = find_chromium()
    if program is not None:
        browser = Browser(program, tmp_path_factory.mktemp("browser"))
        browser.open((site.folder / "r.html").as_uri())
        browser.wait("document.querySelectorAll('svg .line').length >= 7")
        assert browser.errors == []
        assert "owned" not in browser.evaluate("document.title")
        browser.close()


def test_a_report_of_nothing_of_a_pruned_version_and_of_a_damaged_history(site):
    result = site.learnerd("report", "--out", "-")
    assert result.returncode == 0, result.stderr
    assert "no version yet" in result.stdout
    site.state.mkdir()
    (site.state / "history.sqlite").write_bytes(b"damaged" * 999)
    told = site.learnerd("report", "--out", "-", "--version", "7")
    text = told.stdout
    assert "version 7 was pruned, or never published" in told.stderr
    assert "pruned, or never published" in text
    assert "the history cannot be read" in text
    assert site.learnerd("report", "--since", "soon").returncode == 2
    assert site.learnerd("report", "--out", "nowhere/r.html").returncode == 2


@pytest.mark.parametrize(
    ("text", "ago_s"), [("90m", 5400), ("24h", 86_400), ("7d", 604_800), ("1.5d", 129_600), ("2w", 1_209_600)]
)
def test_since(text, ago_s):
    assert moment_of(text, now=1e9) == 1e9 - ago_s


def test_since_a_date():
    assert moment_of("2026-11-21T12:00+00:00", now=0.0) == 1795262400.0
    with pytest.raises(BadParameter, match="24h"):
        moment_of("yesterday", now=0.0)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (-1, 1, 2, [-1, 0, 1]), (0.0, 0.003, 3, [0.0, 0.001, 0.002, 0.003])],
)
def test_ticks_are_round(low, high, most, expected):
    assert ticks(low, high, most) == pytest.approx(expected)


@pytest.mark.parametrize("line", [[(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, 1e-300), (1.0, 1e300)]])
def test_every_curve_can_be_drawn(line):
    drawn = curve(line, width=100, height=100)
    assert "nan" not in drawn
    assert json.dumps(drawn)


def test_numbers_for_people():
    assert [number(value) for value in (1234, 0.5, 1e-9, None, float("nan"))] == [
        "1,234",
        "0.5",
        "1e-09",
        "-",
        "-",
    ]
