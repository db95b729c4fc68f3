"""A folder with a configuration, a spool and a state whose first version is the oracle's base."""

import oracle

from policies.checkpoint import Delta
from policies.store import CheckpointStore

CONFIG = """
[policy]
hidden = [64]
normalize = false
[batch]
min_episodes = 2
max_wait_s = 0.02
chunk_episodes = 2
max_chunks = 2
[admission]
settle_s = 0.1
max_staleness = 16
[store]
keep_last = 40
keep_every = 0
keep_minutes = 0
[schedule]
rescan_s = 0.2
[telemetry]
log = "json"
"""


def make_site(folder, extra=""):
    """Write the configuration, make the inbox, publish the base as version 1."""
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CONFIG + extra)
    (folder / "spool" / "in").mkdir(parents=True)
    base = oracle.base_checkpoint()
    CheckpointStore(folder / "state").publish(Delta(weights={}), base=base, writer="daemon", episodes=[])
