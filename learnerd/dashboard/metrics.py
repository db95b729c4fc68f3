"""The document of ``status --json`` as Prometheus text; the names are a contract, see docs/operations.md."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learnerd.status_file import is_alive

Samples = Iterable[tuple[Mapping[str, str], Any]]


LABELS = {
    "learnerd_episodes_refused_total": "reason",
    "learnerd_files_quarantined_total": "reason",
    "learnerd_logp_episodes_total": "source",
}
"""Metrics that have one value for each of several names."""

METRICS = (
    ("learnerd_uptime_seconds", "daemon.uptime_s", "Since the daemon started."),
    ("learnerd_policy_version", "policy.version", "The newest version."),
    ("learnerd_policy_published_timestamp_seconds", "policy.published_at", "When it was published, UTC."),
    ("learnerd_policy_parameters", "policy.parameters", "Numbers in the policy."),
    ("learnerd_episodes_learned_total", "episodes.learned", "Episodes learned from."),
    ("learnerd_episodes_refused_total", "episodes.refused", "Readable episodes that are not learned from."),
    ("learnerd_files_quarantined_total", "episodes.quarantined", "Unreadable files and episodes."),
    ("learnerd_files_pending", "episodes.pending", "Files that wait."),
    ("learnerd_oldest_pending_age_seconds", "episodes.oldest_pending_age_s", "How long the oldest waits."),
    ("learnerd_updates_total", "learning.updates", "Updates of the policy."),
    ("learnerd_steps_total", "learning.steps", "Steps learned from."),
    ("learnerd_return_mean", "learning.return_mean_100", "Mean return of the last 100 episodes."),
    ("learnerd_return_last", "learning.return_last", "Return of the last episode."),
    ("learnerd_loss", "learning.loss", "Policy loss of the last update."),
    ("learnerd_value_loss", "learning.value_loss", "Loss of the value network."),
    ("learnerd_entropy_nats", "learning.entropy", "Entropy of the policy."),
    ("learnerd_kl_nats", "learning.kl", "How far the last update moved the policy."),
    ("learnerd_effective_share_ratio", "learning.ess_fraction", "Effective sample size / steps, 0 to 1."),
    ("learnerd_staleness_updates", "learning.staleness_mean", "Updates between acting and learning."),
    ("learnerd_learning_rate", "learning.lr", "Of the last update."),
    ("learnerd_grad_norm", "learning.grad_norm", "Length of the gradient, before it was cut."),
    ("learnerd_batch_episodes", "learning.batch_episodes", "Episodes in the last update."),
    ("learnerd_batch_steps", "learning.batch_steps", "Steps in the last update."),
    ("learnerd_logp_episodes_total", "learning.logp", "Episodes by where log-probabilities come from."),
    ("learnerd_drop_to_publish_p50_seconds", "latency.drop_to_publish_p50_s", "Half of the files took less."),
    ("learnerd_drop_to_publish_p99_seconds", "latency.drop_to_publish_p99_s", "99 of 100 took less."),
    ("learnerd_update_seconds", "latency.update_s", "Training in the last cycle."),
    ("learnerd_publish_seconds", "latency.publish_s", "Publishing in the last cycle."),
    ("learnerd_spool_bytes", "disk.spool_bytes", "Size of the spool."),
    ("learnerd_archive_bytes", "disk.archive_bytes", "Size of the archive."),
    ("learnerd_disk_free_bytes", "disk.free_bytes", "Free for the spool."),
)
"""Name with its unit, place in the document, help; a name that ends with _total is a counter."""


def prometheus(document: Mapping[str, Any], now: float) -> bytes:
    """The whole of /metrics; what is unknown is left out."""
    lines = list(_of_the_process(document, now))
    for name, place, text in METRICS:
        section, _, key = place.partition(".")
        value = document[section].get(key)
        samples: Samples = [({}, value)]
        if name in LABELS:
            counts = value if isinstance(value, dict) else {}
            samples = [({LABELS[name]: str(one)}, count) for one, count in counts.items()]
        lines += _family(name, text, samples)
    return "".join(f"{line}\n" for line in lines).encode()


def _of_the_process(document: Mapping[str, Any], now: float) -> Iterator[str]:
    up = int(is_alive(document))
    yield from _family("learnerd_up", "Whether the daemon runs.", [({}, up)])
    state = {"state": str(document["daemon"]["state"])}
    yield from _family("learnerd_state", "1 for the state that it is in.", [(state, 1)])
    silent_s = document["process"]["silent_s"]
    holds = [({"why": str(hold["why"])}, _age(hold["since"], now)) for hold in document["daemon"]["holds"]]
    yield from _family("learnerd_held_seconds", "Since when it may not learn, by reason.", holds)
    yield from _family("learnerd_silent_seconds", "Since it wrote last.", [({}, silent_s)])
    alarms = [
        ({"id": str(alarm["id"]), "level": str(alarm.get("level") or "alarm")}, _age(alarm["since"], now))
        for alarm in document["alarms"]
    ]
    yield from _family("learnerd_alarm_seconds", "Since when each alarm stands.", alarms)


def _age(since: Any, now: float) -> float:
    return max(0.0, now - since) if isinstance(since, int | float) else 0.0


def _family(name: str, text: str, samples: Samples) -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if isinstance(value, int | float)]
    if not known:
        return
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
    for labels, value in known:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{'{' + inner + '}' if inner else ''} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
