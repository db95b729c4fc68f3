"""The report's page: everything that was written by others is escaped, and nothing is fetched."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from learnerd import status_file
from learnerd.config import Config
from learnerd.dashboard.page import web_text
from learnerd.history import AHEAD_S, read_or_explain
from learnerd.report.curves import curve_cards, moment, number
from learnerd.report.provenance import MOST, Provenance, provenance
from learnerd.version_rows import newest_rows

POINTS = 600
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)


def report(config: Config, *, since: float, version: int | None = None, now: float | None = None) -> str:
    """The whole page.

    Args:
        config: of the daemon, which need not run.
        since: UTC seconds; curves begin there.
        version: whose provenance is told; None: the current one's.
        now: UTC seconds.
    """
    now = time.time() if now is None else now
    state = config.paths.state
    document = status_file.live_document(config)
    columns, problem = read_or_explain(state, since=since, until=now + AHEAD_S, points=POINTS)
    rows = newest_rows(state)
    shown = version or next((row["version"] for row in rows if row["current"]), None)
    told = None if shown is None else provenance(config, shown)
    return "".join(
        [
            HEAD,
            f"<title>learnerd: report of {moment(now)}</title>",
            f"<style>{web_text('style.css')}</style></head><body>",
            _header(config, document, now),
            "<main>",
            _alarms(document["alarms"]),
            _tiles(document),
            f'<p class="note">{escape(problem)}</p>' if problem else "",
            f'<div class="charts">{curve_cards(columns)}</div>',
            _refusals(document["episodes"], _newest_examples(state)),
            _versions(rows),
            "" if told is None else _provenance(told),
            "</main></body></html>\n",
        ]
    )


def _header(config: Config, document: Mapping[str, Any], now: float) -> str:
    written_at = document["process"]["written_at"]
    state = escape(str(document["daemon"]["state"]))
    level = "good" if status_file.is_healthy(document) else "bad"
    seen = "" if written_at is None else f", last sign of life {moment(written_at)} UTC"
    return (
        f'<header class="top"><h1>learnerd</h1><span class="state {level}">{state}</span>'
        f'<span class="note">{escape(str(config.file or config.paths.state))}{seen}</span>'
        f'<span class="note push">report of {moment(now)} UTC</span></header>'
    )


def _alarms(alarms: Iterable[Mapping[str, Any]]) -> str:
    return "".join(
        f'<div class="alarm{" notice" if alarm.get("level") == "notice" else ""}">'
        f"<strong>{_text(alarm['message'])}</strong><br><span>What to do: {_text(alarm['remedy'])}</span>"
        f'<div class="note">{_text(alarm["id"])}, since {moment(alarm["since"])} UTC</div></div>'
        for alarm in alarms
    )


def _tiles(document: Mapping[str, Any]) -> str:
    policy, episodes, learning = document["policy"], document["episodes"], document["learning"]
    figures = (
        ("Version", number(policy["version"]), f"published {moment(policy['published_at'])} UTC"),
        ("Return", number(learning["return_mean_100"]), "mean of the last 100 episodes"),
        ("Learned", number(episodes["learned"]), f"episodes, in {number(learning['updates'])} updates"),
        ("Refused", number(sum(episodes["refused"].values())), "episodes"),
        ("Quarantined", number(sum(episodes["quarantined"].values())), "files and episodes"),
        ("Waiting", number(episodes["pending"]), "files"),
    )
    return "".join(
        [
            '<section class="tiles">',
            *(
                f'<div class="card"><div class="tile-name">{name}</div>'
                f'<div class="tile-value">{value}</div><div class="note">{note}</div></div>'
                for name, value, note in figures
            ),
            "</section>",
        ]
    )


def _newest_examples(state: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The newest record of each (verdict, reason)."""
    newest: dict[tuple[str, str], Mapping[str, Any]] = {}
    try:
        lines = (state / "outcomes.jsonl").read_bytes().splitlines()
    except OSError:
        return newest
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "verdict" in record:
            newest[str(record["verdict"]), str(record.get("reason"))] = record
    return newest


def _refusals(episodes: Mapping[str, Any], examples: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    rows = [
        (count, verdict, reason, examples.get((verdict, reason), {}))
        for verdict in ("refused", "quarantined")
        for reason, count in episodes[verdict].items()
    ]
    rows.sort(key=lambda row: -row[0])
    most = max((row[0] for row in rows), default=1)
    cells = [
        (
            _text(reason),
            f'<span class="note">{verdict}</span>',
            f'<span class="bar" style="width:{140 * count / most:.0f}px"></span>',
            number(count),
            _example(example),
        )
        for count, verdict, reason, example in rows
    ]
    heads = ("reason", "", "", "count", "the newest one")
    return _card("Refused and quarantined, by reason", _table(heads, cells) if cells else "none")


def _example(record: Mapping[str, Any]) -> str:
    if not record:
        return '<span class="note">its record is no longer kept</span>'
    client = f" of {record['client_id']}" if record.get("client_id") else ""
    text = (
        f"{record.get('name')}{client}: {record.get('field')} is {record.get('value')}; "
        f"accepted: {record.get('accepted')}"
    )
    return f'{_text(text)} <span class="note">{moment(record.get("at"))} UTC</span>'


def _versions(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            number(row["version"]),
            f'<span class="mark {row["standing"]}">{row["standing"]}</span>' if row["standing"] else "",
            "" if row["rollback_to"] is None else f"rollback to {row['rollback_to']}",
            moment(row["saved_at"]),
            _text(row["writer"]),
            _text(", ".join(map(str, row["parents"] or ()))),
            number(row["episodes_total"]),
            number(row["updates_total"]),
        )
        for row in rows
    ]
    heads = ("version", "", "", "saved, UTC", "writer", "parents", "episodes", "updates")
    return _card("Newest versions", _table(heads, cells) if cells else "no version yet")


def _provenance(told: Provenance) -> str:
    facts = [
        (_text(name), moment(value) + " UTC" if name.startswith("ingested") else _text(value))
        for name, value in told.facts
        if value not in (None, "")
    ]
    files = ", ".join(told.files[:MOST]) + (
        f" and {len(told.files) - MOST} more" if len(told.files) > MOST else ""
    )
    parts = [
        f'<p class="state bad">{_text(told.problem)}</p>' if told.problem else "",
        _table(("what", ""), facts),
        _table(("client", "episodes"), [(_text(name), number(count)) for name, count in told.clients]),
        f'<p class="fold"><b>files:</b> {_text(files)}</p>' if told.files else "",
        _table(("file of the version", "", "sha256"), [tuple(map(_text, row)) for row in told.file_states]),
    ]
    return _card(f"Where version {told.version} comes from", "".join(parts))


def _card(title: str, inner: str) -> str:
    return f'<section class="card"><h2>{title}</h2><div class="scroll">{inner}</div></section>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    lines = ("</td><td>".join(row[:-1]) + f'</td><td class="fold">{row[-1]}' for row in rows)
    body = "".join(f"<tr><td>{line}</td></tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _text(value: Any) -> str:
    return escape("-" if value is None else str(value))
