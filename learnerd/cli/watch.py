"""``learnerd status --watch``: again and again, on a terminal in place, else a line every ten seconds."""

import contextlib
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from learnerd import status_file
from learnerd.cli.options import local_time
from learnerd.cli.status import exit_code, shown
from learnerd.config import Config
from learnerd.exit_codes import ExitCode
from learnerd.trend import read_trend

LOOK_EVERY_S = 1.0
LINE_EVERY_S = 10.0


def watch(config: Config) -> ExitCode:
    """Show the status until Ctrl-C; returns the code of what was seen last."""
    console = Console(highlight=False, emoji=False)
    document = status_file.live_document(config)
    with contextlib.suppress(KeyboardInterrupt):
        if not console.is_terminal:
            while True:
                console.print(_line(document), soft_wrap=True, markup=False)
                time.sleep(LINE_EVERY_S)
                document = status_file.live_document(config)
        with Live(console=console, auto_refresh=False) as live:
            while True:
                text = shown(document, read_trend(config.paths.state), console.encoding)
                live.update(Text.from_ansi(text), refresh=True)
                time.sleep(LOOK_EVERY_S)
                document = status_file.live_document(config)
    return exit_code(document)


def _line(document: dict[str, Any]) -> str:
    episodes, learning = document["episodes"], document["learning"]
    mean = learning["return_mean_100"]
    holds = [f"({hold['why']})" for hold in document["daemon"]["holds"]]
    parts = [
        local_time(time.time()),
        " ".join([str(document["daemon"]["state"]), *holds]),
        f"version {document['policy']['version']}",
        f"{episodes['learned']} learned",
        f"{sum(episodes['refused'].values())} refused",
        f"{'?' if episodes['pending'] is None else episodes['pending']} waiting",
        "no return yet" if mean is None else f"return {mean:.4g}",
        f"{len(document['alarms'])} alarms",
    ]
    return ", ".join(parts)
