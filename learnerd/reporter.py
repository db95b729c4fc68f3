"""Reporter: what the daemon tells the world: log lines, alarms, the status file, the service manager."""

import datetime as dt
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from experience.collate import usable_steps
from experience.spool import Spool
from learnerd.admission import Admission
from learnerd.config import Config
from learnerd.cycle import CycleReport
from learnerd.errors import ConfigError
from learnerd.learning_alarms import LearningAlarms
from learnerd.notify import Notifier
from learnerd.observers import Observers
from learnerd.reload import Change
from learnerd.repair import Repairs
from learnerd.schedule import SCHEDULE_ALARMS, Concern, Hold
from learnerd.status_file import write_status
from learnerd.stretches import Finding
from learnerd.telemetry import Telemetry
from policies.checkpoint import Checkpoint

log = structlog.get_logger(__name__)

MOST_NAMED = 5
"""Damaged shards that an alarm names; the log names all."""


class Reporter:
    """Turns events of the loop into words.

    Args:
        config: where the status file is.
        telemetry: the figures.
        spool, admission: sizes and verdicts.
        notifier: the service manager.
    """

    def __init__(
        self, config: Config, *, telemetry: Telemetry, spool: Spool, admission: Admission, notifier: Notifier
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._spool = spool
        self._admission = admission
        self._notifier = notifier
        self._observers = Observers(config)
        self._told = admission.counts()
        self._mute = False
        self._learning = LearningAlarms(config, telemetry)

    def ready(self, *, resumed: int) -> None:
        """The first scan is done."""
        self._telemetry.state = "running"
        self._learning.look_at_returns()
        self._observers.start()
        self.write_status()
        self._notifier.ready(self._summary())
        head = self._telemetry.head
        log.info(
            "ready",
            version=None if head is None else head.version,
            device=self._telemetry.device,
            resumed=resumed,
            spool=str(self._config.paths.spool),
        )

    def draining(self) -> None:
        """A stop was asked for."""
        if self._telemetry.state == "running":
            self._telemetry.state = "draining"
            self._notifier.stopping("draining")
            log.info("draining")
            self.write_status()

    def stopped(self, *, cut_short: bool) -> None:
        """The end; ``cut_short``: the update under way is broken off, and comes again at the next start."""
        if cut_short:
            log.warning("drain_cut_short", remedy="nothing is lost; raise [daemon] drain_s to wait longer")
        self._telemetry.state = "stopped"
        head = self._telemetry.head
        log.info("stopped", version=None if head is None else head.version, **self._verdicts())
        self.write_status()

    def close(self) -> None:
        """Write what is left of the history, and end the dashboard; a reload begins both anew."""
        self._observers.close()

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._notifier.reloading()
        self._notifier.status("reloading")
        log.info("reloading", file=str(self._config.file))

    def reload_refused(self, error: ConfigError) -> None:
        """It cannot be used: the old one stays in force."""
        for problem in error.problems:
            log.error("config_refused", problem=str(problem))
        message = "the configuration of before stays in force: " + "; ".join(map(str, error.problems))
        remedy = "mend it, try it with `learnerd config check`, and reload again"
        self._telemetry.raise_alarm("config_refused", message, remedy)
        self.write_status()
        self._notifier.ready(f"{self._summary()}; the changed configuration is refused")

    def reloaded(self, change: Change) -> None:
        """A changed configuration is in force; what waits for a restart is named."""
        log.info("reloaded", applied=change.applied, restart_needed=change.kept)
        self._telemetry.clear_alarm("config_refused")
        self._telemetry.clear_alarm("restart_needed")
        if change.kept:
            message = f"changed, but not in force before a restart: {', '.join(change.kept)}"
            remedy = "restart when it suits you: nothing that waits is lost"
            self._telemetry.raise_alarm("restart_needed", message, remedy, level="notice")

    def clock_stepped(self, jump_s: float) -> None:
        """The wall clock was set."""
        log.warning("clock_stepped", seconds=round(jump_s, 1))

    def folders_restored(self, missing: Sequence[Path]) -> None:
        """Somebody removed folders of the spool."""
        if missing:
            log.warning("folders_restored", folders=[str(folder) for folder in missing])

    def cycle(self, report: CycleReport, *, number: int) -> None:
        """A cycle ended: figures, alarms, one line; ``number`` counts cycles from 1."""
        self._telemetry.note(report)
        self._log_cycle(report, number)
        self._telemetry.clear_alarm("publish_failed")
        self._learning.after(report)
        if report.published is not None:
            self._observers.note(self._telemetry.row(report, self._admission.counts()))
        self.write_status()

    def failure(self, alarm: str, error: Exception, remedy: str, *, unexpected: bool = False) -> None:
        """Something went wrong; what it concerns is kept, or set aside, by the caller."""
        self._learning.failed(alarm)
        is_new = alarm not in self._telemetry.alarms
        tell = log.error if is_new or unexpected else log.debug
        tell("failed", alarm=alarm, error=str(error), exc_info=error if unexpected else None)
        self._telemetry.raise_alarm(alarm, f"{type(error).__name__}: {error}", remedy)
        if is_new:
            self.write_status()

    def recovered(self, alarm: str) -> None:
        """What an alarm was about works again."""
        if alarm in self._telemetry.alarms:
            self._telemetry.clear_alarm(alarm)
            self.write_status()

    def watch(self, problem: str) -> None:
        """File events cannot be had; "": they can."""
        if not problem:
            self.recovered("watch_failed")
            return
        message = f"file events cannot be had ({problem}): files are found by rescans, every rescan_s"
        remedy = "raise fs.inotify.max_user_instances and max_user_watches; it is tried again every 10 s"
        self._raise("watch_failed", message, remedy, level="notice")

    def held(self, holds: tuple[Hold, ...], concerns: tuple[Concern, ...]) -> None:
        """No cycle may begin, for other reasons than before, or one may again; ``concerns`` are alarms."""
        before, self._telemetry.holds = {hold.why for hold in self._telemetry.holds}, holds
        for hold in holds:
            if hold.why not in before:
                log.info("held", why=hold.why, message=hold.message, until=iso_local(hold.until))
        if before and not holds:
            log.info("released", was=sorted(before))
        for name in SCHEDULE_ALARMS - {concern.id for concern in concerns}:
            self._telemetry.clear_alarm(name)
        for concern in concerns:
            self._telemetry.raise_alarm(concern.id, concern.message, concern.remedy)
        if self._telemetry.state != "starting":
            self.write_status()

    def repairs(self, repairs: Repairs) -> None:
        """Damaged versions were found, or brought back; a notice stays once all of it is done."""
        if repairs.message:
            level = "alarm" if repairs.lost else "notice"
            self._telemetry.raise_alarm("version_damaged", repairs.message, repairs.remedy, level=level)

    def archive_damaged(self, damaged: Mapping[Path, str]) -> None:
        """Shards that cannot be read, as found when the archive was compacted; none: that is over."""
        if not damaged:
            self._telemetry.clear_alarm("archive_damaged")
            return
        named = "; ".join(itertools.islice(damaged.values(), MOST_NAMED))
        more = f"; and {len(damaged) - MOST_NAMED} more" if len(damaged) > MOST_NAMED else ""
        remedy = "put them back from a backup, or remove them; they stay as they are, and learning goes on"
        log.error("archive_damaged", shards=[str(path) for path in damaged])
        self._raise("archive_damaged", f"damaged, and not compacted: {named}{more}", remedy)

    def head(self, head: Checkpoint) -> None:
        """Somebody may have published, or rolled back, since the last cycle."""
        self._telemetry.head = head

    def version_worse(self, finding: Finding | None, failure: str) -> None:
        """Clients earn less with newer versions; None: they do not."""
        if finding is None:
            self._telemetry.clear_alarm("version_worse")
            return
        back = f"`learnerd versions rollback {finding.better[0]}` goes back"
        remedy = f"see whether the task or its clients changed; if not, {back}"
        if self._config.rollback.mode == "auto":
            remedy = f"the rollback failed and is tried again: {failure}" if failure else "it is rolled back"
        self._raise("version_worse", str(finding), remedy)

    def rolled_back(self, told: Mapping[str, Any] | None) -> None:
        """A version went back to older weights; None: that is over."""
        if told is None:
            self._telemetry.clear_alarm("rolled_back")
            return
        first, last = told["rejected"]
        rejected = f"{first} is" if first == last else f"{first} to {last} are"
        message = f"version {told['version']} has the weights of version {told['to']}; {rejected} rejected"
        remedy = (
            f"see what they learned (`learnerd versions diff {told['to']} {last}`, `learnerd versions show "
            f"{last}`) and mend it; files in which they acted are refused as rejected_version; `learnerd "
            f"versions rollback {last}` takes the rollback back"
        )
        level = "alarm" if told["automatic"] else "notice"
        self._raise("rolled_back", f"{message}: {told['reason']}", remedy, level=level)

    def _raise(self, alarm: str, message: str, remedy: str, *, level: str = "alarm") -> None:
        """Raise an alarm, and write it down at once when it is new."""
        is_new = alarm not in self._telemetry.alarms
        self._telemetry.raise_alarm(alarm, message, remedy, level=level)
        if is_new:
            self.write_status()

    def write_status(self) -> None:
        """Write the status file; a full disk must not end the daemon."""
        self._look_for_starvation()
        self._observers.report_to(self._telemetry)
        document = self._telemetry.document(self._spool, self._admission.counts())
        try:
            write_status(self._config.paths.state, document)
        except OSError as error:
            tell = log.debug if self._mute else log.warning
            tell("status_not_written", error=str(error))
            self._mute = True
        else:
            self._mute = False
        self._notifier.status(self._summary())

    def _look_for_starvation(self) -> None:
        starved = self._admission.starved()
        if starved is None:
            self._telemetry.clear_alarm("client_starved")
            return
        self._telemetry.raise_alarm("client_starved", starved.message, starved.remedy)

    def _log_cycle(self, report: CycleReport, number: int) -> None:
        """One line a cycle; files are counted in it, never named."""
        lags_s = self._telemetry.lags_s
        figures: dict[str, Any] = {"version": None, "episodes": 0}
        if report.published is not None and report.learned is not None:
            episodes, updates = report.learned.episodes, report.learned.reports
            figures = {
                "version": report.published.version,
                "episodes": len(episodes),
                "steps": sum(map(usable_steps, episodes)),
                "updates": len(updates),
                "replayed": sum(update.n_episodes for update in updates) - len(episodes),
                "retrained": report.retrained,
                "return_mean": round(sum(episode.total_reward for episode in episodes) / len(episodes), 3),
                "loss": round(updates[-1].loss, 5),
                "ess": round(updates[-1].ess_fraction, 3),
                "lag_s": round(max(lags_s), 4) if lags_s else None,
                "update_s": round(report.update_s, 4),
                "publish_s": round(report.publish_s, 4),
            }
        log.info("cycle_ended", cycle=number, **figures, **self._verdicts())

    def _verdicts(self) -> dict[str, dict[str, int]]:
        """Verdict -> reason -> how many came since the last line that told of them."""
        counts, told = self._admission.counts(), self._told
        self._told = counts
        return {
            verdict: {
                reason: n - told[verdict].get(reason, 0)
                for reason, n in reasons.items()
                if n > told[verdict].get(reason, 0)
            }
            for verdict, reasons in counts.items()
        }

    def _summary(self) -> str:
        head = self._telemetry.head
        text = "no version yet"
        if head is not None:
            text = f"version {head.version}, {head.counters.get('episodes', 0)} episodes learned"
        return "; ".join([*map(_told, self._telemetry.holds), text])


def _told(hold: Hold) -> str:
    until = iso_local(hold.until)
    return f"{hold.message}, until {until}" if until else hold.message


def iso_local(seconds: float | None) -> str | None:
    """Local time for people, to the second."""
    if seconds is None:
        return None
    return dt.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
