import io
import json
import logging

import pytest
import structlog

from learnerd import log


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restore():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines():
    stream = io.StringIO()
    log.configure(form="auto", stream=stream)
    structlog.get_logger("learnerd.x").info("published", version=3, name="a\n\x1b[31m\udcff")
    entry = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert entry["event"] == "published"
    assert (entry["version"], entry["level"], entry["logger"]) == (3, "info", "learnerd.x")
    assert entry["timestamp"].endswith("Z")


def test_exceptions_stay_on_one_json_line():
    stream = io.StringIO()
    log.configure(form="json", stream=stream)
    try:
        int("what\nnow")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: " in json.loads(stream.getvalue())["exception"]


def test_auto_is_text_on_a_terminal():
    stream = Terminal()
    log.configure(form="auto", stream=stream)
    structlog.get_logger().info("published", version=3)
    assert "published" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_console_escapes_what_clients_wrote():
    stream = io.StringIO()
    log.configure(form="console", stream=stream)
    structlog.get_logger().info("refused", name="a\n\x1b[31m")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_level_and_other_libraries():
    stream = io.StringIO()
    log.configure(form="json", level="warning", stream=stream)
    structlog.get_logger().info("hidden")
    logging.getLogger("apscheduler.x").warning("job %s missed", "compact")
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["level"]) == ("job compact missed", "warning")


def test_configure_twice_writes_once():
    first, second = io.StringIO(), io.StringIO()
    log.configure(form="json", stream=first)
    logger = structlog.get_logger()
    log.configure(form="json", stream=second)
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
