"""The dashboard's process: configuration on standard input, a line of JSON on standard output, then requests.

It ends when standard input does, that is, when the daemon ends, however it ends.
"""

import json
import os
import sys
import threading

from learnerd.config import Config
from learnerd.config_tables import split_address
from learnerd.dashboard.access import Access, read_token
from learnerd.dashboard.server import DashboardServer
from learnerd.dashboard.views import Views

NICENESS = 10
"""Bots and the learner go first."""


def main() -> int:
    """Serve until standard input ends."""
    config = Config.model_validate(json.loads(sys.stdin.readline()))
    os.nice(NICENESS)
    try:
        access = Access(token=read_token(config.telemetry.token_file), names=config.telemetry.http_names)
        address = split_address(config.telemetry.http)
        server = DashboardServer(address, views=Views(config), access=access)
    except (OSError, ValueError) as error:
        _say(problem=str(error))
        return 1
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _say(url=server.url)
    sys.stdin.read()
    return 0


def _say(**words: str) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
