"""Housekeeping: when the store is pruned between two nights."""

import threading
from unittest.mock import Mock

from learnerd.config import load_config
from learnerd.maintenance import PRUNE_EVERY, Housekeeping


def test_pruned_as_often_where_an_online_learner_takes_every_other_number(tmp_path):
    (tmp_path / "config.toml").write_text("")
    trainer = Mock()
    parts = {name: Mock() for name in ("store", "spool", "admission", "scrub", "reporter", "clock")}
    config = load_config(tmp_path / "config.toml", {})
    housekeeping = Housekeeping(config, trainer=trainer, wake=threading.Event(), **parts)
    try:
        for version in range(1, 4 * PRUNE_EVERY, 2):
            housekeeping.published(version)
    finally:
        housekeeping.close()
    assert trainer.submit.call_count == 3
