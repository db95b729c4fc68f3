"""What a command's exit status means; scripts rely on these numbers."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The contract of every ``learnerd`` command.

    FATAL: the state folder is of another release, or its ledger is damaged: trying again does not help.
    """

    OK = 0
    FAILURE = 1
    USAGE = 2
    DAEMON_DOWN = 3
    DEGRADED = 4
    RETRYABLE = 5
    BAD_CONFIG = 6
    FATAL = 7
    NOTHING_TO_DO = 9
