"""A CartPole client by the written contract alone: what a bot in any language has to do. Copy it.

Nothing of learnerd is imported; numpy and safetensors stand for what your language has for arrays.
A client does three things, and never waits for the daemon:

1. ``read_policy``: between episodes, look at ``state/CURRENT`` and take up the version that it names.
2. ``Policy``: compute the action's probabilities, draw one, note its log-probability and the version.
3. ``deposit``: write the whole episode aside in ``spool/in`` under a name that starts with ``.tmp-``, then
   rename it. A rename is all or nothing: the daemon never sees half a file.

    python by_contract.py --spool spool --state state

After each episode a line of JSON goes to standard output: ``{"at", "return", "steps", "version"}``.
"""

import argparse
import hashlib
import json
import math
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

Array = NDArray[Any]
Env = gymnasium.Env[Array, int]
Line = dict[str, Any]  # one line of a JSONL file

ENV_ID = "CartPole-v1"
N_ACTIONS = 2
LONGEST_LAG_S = 0.05  # as far as a slow moment may be made up for
SHORTEST_SLEEP_S = 0.005  # many short sleeps would cost more than the game itself


@dataclass(frozen=True)
class Policy:
    """One published version: a multilayer perceptron that gives one logit an action.

    y = W_n · act(… act(W_0 · x̂ + b_0) …) + b_n; x̂ is the observation, normalized if the version says so.
    """

    version: int
    layers: list[tuple[Array, Array]]
    activation: Callable[[Array], Array]
    normalization: tuple[Array, Array] | None  # mean and standard deviation of what the policy has seen

    def log_probs(self, obs: Array) -> Array:
        """Log-probability of each action, float64."""
        x = obs.ravel()
        if self.normalization is not None:
            mean, std = self.normalization
            x = np.clip((x - mean) / std, -10, 10)
        *hidden, (weight, bias) = self.layers
        for hidden_weight, hidden_bias in hidden:
            x = self.activation(hidden_weight @ x + hidden_bias)
        logits = (weight @ x + bias).astype(np.float64)
        logits -= logits.max()
        return logits - math.log(np.exp(logits).sum())


def read_policy(state: Path, policy: Policy | None) -> Policy | None:
    """Take up the version that CURRENT names; keep the one in use when there is no better one.

    A version directory never changes, but old ones are removed after some minutes: then CURRENT names a
    newer one by now, and the next call finds it.
    """
    try:
        name = (state / "CURRENT").read_text().strip()  # eight digits, such as 00000042
    except FileNotFoundError:
        return policy  # nothing has been published yet
    if policy is not None and int(name) <= policy.version:
        return policy
    try:
        return load_version(state / "checkpoints" / name)
    except (OSError, ValueError) as error:
        print(f"version {name} is not usable, keeping the last one: {error}", file=sys.stderr)
        return policy


def load_version(folder: Path) -> Policy:
    """Read the manifest, check the model file against it, and unpack the policy network."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    data = (folder / "model.safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest["files"]["model.safetensors"]["sha256"]:
        raise ValueError("model.safetensors does not have the sha256 that its manifest names")
    arrays = safetensors.numpy.load(data)
    spec = manifest["spec"]
    n_layers = len(spec["hidden"]) + 1
    return Policy(
        version=manifest["version"],
        layers=[(arrays[f"policy.{i}.weight"], arrays[f"policy.{i}.bias"]) for i in range(n_layers)],
        activation=_activation(spec),
        normalization=_normalization(arrays) if spec["normalize"] else None,
    )


def _normalization(arrays: dict[str, Array]) -> tuple[Array, Array]:
    count, mean, m2 = (arrays[f"normalizer.{name}"] for name in ("count", "mean", "m2"))
    if count[0] == 0:  # no observation has been learned from yet
        return np.zeros_like(mean, np.float32), np.ones_like(mean, np.float32)
    return mean.astype(np.float32), np.sqrt(m2 / count[0] + 1e-8).astype(np.float32)


def _activation(spec: dict[str, Any]) -> Callable[[Array], Array]:
    activate = np.tanh if spec["activation"] == "tanh" else _relu
    if not spec.get("layer_norm"):
        return activate
    return lambda x: activate((x - x.mean()) / np.sqrt(x.var() + 1e-5))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def choose(policy: Policy | None, obs: Array, rng: np.random.Generator) -> tuple[int, float]:
    """Draw an action; give its log-probability, which lets the learner correct for an old version."""
    if policy is None:  # nothing has been published yet: act at random, and say with what probability
        return int(rng.integers(N_ACTIONS)), -math.log(N_ACTIONS)
    log_probs = policy.log_probs(obs)
    action = int(rng.choice(N_ACTIONS, p=np.exp(log_probs)))
    return action, float(log_probs[action])


def play(
    env: Env, policy: Policy | None, rng: np.random.Generator, pace: "Pace", *, client_id: str
) -> list[Line]:
    """Play one episode; return its lines: a header, one line a step, and the end.

    ``terminated`` and ``truncated`` are what Gymnasium says: the task itself ended, or it was cut off. When
    it was cut off, what was still to come is judged by ``final_obs``, the observation after the last action.
    """
    header: Line = {
        "episode_id": str(uuid.uuid4()),  # any text that is unique for this client
        "client_id": client_id,
        "env_id": ENV_ID,
        "action_space": {"kind": "discrete", "n": N_ACTIONS},
        "policy_version": policy.version if policy else 0,
        "started_at": _utc_now(),
    }
    steps: list[Line] = []
    obs, _ = env.reset()
    terminated = truncated = False
    while not (terminated or truncated):
        pace.wait()
        action, logp = choose(policy, obs, rng)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        steps.append({"obs": obs.tolist(), "action": action, "reward": float(reward), "logp": logp})
        obs = next_obs
    end: Line = {"final_obs": obs.tolist(), "terminated": terminated, "truncated": truncated}
    return [header | {"ended_at": _utc_now()}, *steps, end]


def deposit(spool: Path, lines: list[Line]) -> None:
    """Write the episode aside and rename it: from then on it belongs to the daemon."""
    name = f"{lines[0]['client_id']}-{lines[0]['episode_id']}.jsonl"  # the extension names the format
    aside = spool / "in" / f".tmp-{name}"
    aside.write_text("".join(json.dumps(line) + "\n" for line in lines))
    aside.rename(spool / "in" / name)


def main() -> None:
    """Play until stopped."""
    options = _options()
    env: Env = gymnasium.make(ENV_ID)
    env.reset(seed=options.seed)  # Gymnasium seeds the environment once; later resets go on from there
    rng = np.random.default_rng(options.seed)
    pace = Pace(options.rate)
    policy: Policy | None = None
    (options.spool / "in").mkdir(parents=True, exist_ok=True)  # the daemon may start later than its clients
    while True:
        policy = read_policy(options.state, policy)  # between episodes: one version plays a whole episode
        lines = play(env, policy, rng, pace, client_id=options.client_id)
        deposit(options.spool, lines)
        rewards = [line["reward"] for line in lines[1:-1]]
        report = {"at": time.time(), "return": sum(rewards), "steps": len(rewards)}
        print(json.dumps(report | {"version": lines[0]["policy_version"]}), flush=True)


class Pace:
    """Keeps the steps to a schedule of ``rate`` a second, as a game's own clock would."""

    def __init__(self, rate: float) -> None:
        self._interval_s = 1.0 / rate
        self._due_s = time.monotonic()

    def wait(self) -> None:
        """Sleep until the next step is due; a client that fell behind does not catch up in a burst."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - LONGEST_LAG_S) + self._interval_s
        if self._due_s - now_s > SHORTEST_SLEEP_S:
            time.sleep(self._due_s - now_s)


def _utc_now() -> str:
    return datetime.now(UTC).isoformat()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play CartPole and deposit every episode.")
    parser.add_argument("--spool", type=Path, required=True, help="the folder of [paths] spool")
    parser.add_argument("--state", type=Path, required=True, help="the folder of [paths] state")
    parser.add_argument("--client-id", default="cartpole-contract")
    parser.add_argument("--rate", type=float, default=2000.0, help="steps a second, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
