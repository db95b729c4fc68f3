"""Log lines: JSON for machines, text for people; standard-library loggers go the same way."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

LogFormat = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]


def configure(*, form: LogFormat = "auto", level: Level = "info", stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (standard error); may be called again.

    Args:
        form: "auto" is "console" on a terminal and "json" elsewhere.
        level: the lowest level that is written.
        stream: any text stream.
    """
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    console = form == "console" or (form == "auto" and on_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_render(console, on_terminal),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("apscheduler", "watchdog"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _render(console: bool, colors: bool) -> list[Processor]:  # noqa: FBT001 - private
    if console:
        # repr: a file name may hold line ends and terminal escapes.
        return [structlog.dev.ConsoleRenderer(colors=colors, repr_native_str=True)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
