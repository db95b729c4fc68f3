"""Observers: history, TensorBoard, exports and dashboard; none of them can hold up or end the daemon."""

from learnerd.config import Config
from learnerd.dashboard.process import DashboardProcess
from learnerd.export.exporter import Exporter
from learnerd.export.folder import FOLDER as EXPORTS
from learnerd.history import DAMAGED_NAME, FILE_NAME, History, Row
from learnerd.recorder import Recorder
from learnerd.telemetry import Telemetry
from learnerd.tensorboard_events import FOLDER_NAME, TensorBoardEvents


class Observers:
    """Started with the daemon, told of each cycle, asked now and then how they are.

    Args:
        config: which of them are wanted, and where they write.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._recorders: dict[str, Recorder] = {}
        self._exporter: Exporter | None = None
        self._dashboard: DashboardProcess | None = None

    def start(self) -> None:
        """Start threads and the dashboard's process; returns at once."""
        state, telemetry = self._config.paths.state, self._config.telemetry
        history = Recorder(History(state, self._config.history), name="history")
        self._recorders["history"] = history
        if telemetry.tensorboard:
            self._recorders["tensorboard"] = Recorder(TensorBoardEvents(state), name="tensorboard")
        if self._config.export.formats:
            self._exporter = Exporter(self._config)
        if telemetry.http:
            self._dashboard = DashboardProcess(self._config)

    def note(self, row: Row) -> None:
        """Tell of a cycle; returns at once."""
        for recorder in self._recorders.values():
            recorder.put(row)
        if self._exporter is not None:
            self._exporter.look()

    def report_to(self, telemetry: Telemetry) -> None:
        """Raise and clear their alarms."""
        for name, recorder in self._recorders.items():
            problem = recorder.problem
            place = self._config.paths.state / (FILE_NAME if name == "history" else FOLDER_NAME)
            remedy = f"free space, or mend {place}; learning goes on without it"
            _sync(telemetry, f"{name}_not_written", _text(problem), remedy)
            if recorder.put_aside is not None:
                telemetry.raise_alarm(
                    "history_damaged",
                    f"{FILE_NAME} was damaged and is begun anew; the old one is kept as {DAMAGED_NAME}",
                    "nothing but curves is lost; have an eye on the disk",
                    level="notice",
                )
        if self._exporter is not None:
            remedy = (
                f"mend {self._config.paths.state / EXPORTS}, or change [export]; learning goes on without it"
            )
            _sync(telemetry, "exports_not_written", _text(self._exporter.problem), remedy)
        if self._dashboard is not None:
            remedy = "choose another [telemetry] http, or mend token_file; learning goes on without it"
            _sync(telemetry, "dashboard_down", self._dashboard.problem, remedy)

    def close(self) -> None:
        """Write what is left, and end."""
        for recorder in self._recorders.values():
            recorder.close()
        self._recorders.clear()
        if self._exporter is not None:
            self._exporter.close()
            self._exporter = None
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None


def _text(problem: Exception | None) -> str | None:
    return None if problem is None else f"{type(problem).__name__}: {problem}"


def _sync(telemetry: Telemetry, name: str, message: str | None, remedy: str) -> None:
    if message is None:
        telemetry.clear_alarm(name)
    else:
        telemetry.raise_alarm(name, message, remedy)
