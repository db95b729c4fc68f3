"""The soak's online learner: REINFORCE in plain NumPy on the same task and store, until SIGTERM or a kill.

``python online.py STATE JOURNAL SEED PERIOD_S``. It publishes as in ``learnerd/docs/online_learner.md``.
"""

import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]

import numpy as np  # noqa: E402 - the path comes first
from journal import Journal  # noqa: E402

from experience import EpisodeKey  # noqa: E402
from policies import CheckpointStore  # noqa: E402
from policies.checkpoint import Delta, LedgerEntry  # noqa: E402
from policies.errors import AlreadyLearned, StoreError, TrainAgain  # noqa: E402

PLAYS, RATE, CONTEXTS = 16, 0.05, 3
WRITER = "online"


def gradient(weights, rng):
    """Of the mean return over one-step episodes, and the returns."""
    w1, b1, w2, b2 = (weights[f"policy.{i}.{part}"] for i in (0, 1) for part in ("weight", "bias"))
    context = rng.integers(CONTEXTS, size=PLAYS)
    x = np.eye(CONTEXTS)[context]
    hidden = np.tanh(x @ w1.T + b1)
    logits = hidden @ w2.T + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    action = (rng.random(PLAYS) < p[:, 1]).astype(int)
    reward = (action == context % 2).astype(float)
    d_logits = (np.eye(2)[action] - p) * (reward - reward.mean())[:, None] / PLAYS
    d_hidden = (d_logits @ w2) * (1 - hidden**2)
    change = {
        "policy.0.weight": d_hidden.T @ x,
        "policy.0.bias": d_hidden.sum(axis=0),
        "policy.1.weight": d_logits.T @ hidden,
        "policy.1.bias": d_logits.sum(axis=0),
    }
    return change, reward


def learn_once(store, base, rng, journal):
    """Play, and publish what follows; whatever is intended is found in the ledger once, or not at all."""
    change, rewards = gradient(base.weights, rng)
    keys = [EpisodeKey(WRITER, uuid.uuid4().hex, 0, "") for _ in rewards]
    names = [(key.client_id, key.episode_id, key.segment) for key in keys]
    entries = [
        LedgerEntry(key=key, row_sha256="0" * 64, total_reward=reward)
        for key, reward in zip(keys, rewards.tolist(), strict=True)
    ]
    delta = Delta(
        weights={name: RATE * array for name, array in change.items()},
        counters={"updates": 1, "steps": len(entries)},
    )
    journal.intended(names)
    while True:
        try:
            store.publish(delta, base=base, writer=WRITER, episodes=entries, saved_at=time.time())
        except TrainAgain:
            return
        except AlreadyLearned:
            break  # an earlier call went through after all
        except (StoreError, OSError):
            time.sleep(0.2)  # the disk is full
        else:
            break
    journal.saved(names)


def main():
    state, folder, seed, period_s = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    rng, journal = np.random.default_rng(seed), Journal(folder / f"online-{os.getpid()}.jsonl")
    store = CheckpointStore(state)
    while not stop.wait(period_s):
        try:
            base = store.head()
        except (StoreError, OSError):
            continue
        if base is not None:
            learn_once(store, base, rng, journal)


if __name__ == "__main__":
    main()
