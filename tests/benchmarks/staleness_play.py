"""Playing: episodes of acting policies, many environments in step, as a daemon reads them from npz files."""

import io
import json
import time

import gymnasium
import numpy as np

from experience.codec import decode
from policies.behavior import log_probs
from policies.forward import SingleForward, policy_outputs

ACROBOT = "Acrobot-v1"


class Player:
    """Plays one environment; what it plays comes back as the daemon's decoder gives it.

    Args:
        task: a Gymnasium id with a discrete action space.
        seed: of the environments and of the actions.
        logs: what is noted: "logged": log-probabilities and version; "version": the version; "nothing".
        lanes: the environments, where they are not the task's own.
    """

    def __init__(self, task, *, seed, logs="logged", lanes=None):
        self._logs, self._seed = logs, seed
        self._lanes = lanes or (AcrobotLanes() if task == ACROBOT else VectorLanes(task))
        self._rng = np.random.default_rng([seed, 1])
        self.played = 0

    def play(self, policies):
        """One episode of each of ``policies`` [(version, acting policy)]; returns episodes in that order."""
        records = self._together([policy for _, policy in policies])
        return [
            self._through_a_file(record, policy, version)
            for record, (version, policy) in zip(records, policies, strict=True)
        ]

    def returns(self, policy, count):
        """Undiscounted returns of ``count`` episodes, as the policy acts: drawing its actions."""
        return [sum(record["reward"]) for record in self._together([policy] * count)]

    def _together(self, policies):
        obs = self._lanes.reset(len(policies), int(self._rng.integers(2**31)))
        records = [{"obs": [row], "action": [], "reward": [], "ended": None} for row in obs]
        distinct = {id(policy): policy for policy in policies}
        owner = np.array([list(distinct).index(id(policy)) for policy in policies])
        acting = [Acting(policy) for policy in distinct.values()]
        live = np.arange(len(policies))
        while len(live):
            action = self._act(acting, owner[live], obs)
            obs, reward, terminated, truncated = self._lanes.step(live, action)
            for i, row, chosen, gain in zip(live, obs, action, reward, strict=True):
                record = records[i]
                record["obs"].append(row)
                record["action"].append(chosen)
                record["reward"].append(gain)
            ended = terminated | truncated
            for i in np.flatnonzero(ended):
                records[live[i]]["ended"] = {
                    "terminated": bool(terminated[i]),
                    "truncated": not bool(terminated[i]),
                }
            live, obs = live[~ended], obs[~ended]
        return records

    def _act(self, policies, owner, obs):
        """Draw an action for each lane from its own policy, by the Gumbel-max trick."""
        action = np.empty(len(obs), np.int64)
        for index in np.unique(owner):
            rows = owner == index
            outputs = policies[index](obs[rows])
            action[rows] = (outputs + self._rng.gumbel(size=outputs.shape)).argmax(1)
        return action

    def _through_a_file(self, record, policy, version):
        self.played += 1
        meta = {"episode_id": f"{self._seed}-{self.played}", "ended_at": time.time(), **record["ended"]}
        arrays = {name: np.array(record[name]) for name in ("obs", "action", "reward")}
        if self._logs == "logged":
            arrays["logp"] = log_probs(policy, arrays["obs"][:-1], arrays["action"])
        if self._logs != "nothing":
            meta["policy_version"] = version
        with io.BytesIO() as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
            data = file.getvalue()
        return decode(data, name="episode.npz", source_sha256="", ingested_at=time.time()).episodes[0]


class Acting:
    """Outputs of one policy, by the faster way for as many observations."""

    def __init__(self, policy):
        self._parts = policy.weights, policy.spec, policy.normalizer
        self._single = None

    def __call__(self, obs):
        if len(obs) > 1:
            return policy_outputs(*self._parts, obs)
        self._single = self._single or SingleForward(*self._parts)
        return self._single(obs[0])[None]


class VectorLanes:
    """Environments that Gymnasium steps together."""

    def __init__(self, task):
        self._task, self._by_count = task, {}

    def reset(self, count, seed):
        if count not in self._by_count:
            self._by_count[count] = gymnasium.make_vec(
                self._task, num_envs=count, vectorization_mode="vector_entry_point"
            )
        self._environment = self._by_count[count]
        self._action = np.zeros(count, np.int64)
        return self._environment.reset(seed=seed)[0].astype(np.float32)

    def step(self, live, action):
        """Lanes that are not ``live`` go on, unseen."""
        self._action[live] = action
        obs, reward, terminated, truncated, _ = self._environment.step(self._action)
        return obs[live].astype(np.float32), reward[live], terminated[live], truncated[live]


class AcrobotLanes:
    """Gymnasium's Acrobot, many at once; a test holds it to the original."""

    STEPS = 500

    def __init__(self):
        self._world = gymnasium.make(ACROBOT).unwrapped
        self._limits = np.array([[self._world.MAX_VEL_1], [self._world.MAX_VEL_2]])

    def reset(self, count, seed):
        rng = np.random.default_rng(seed)
        self._state = rng.uniform(-0.1, 0.1, (4, count)).astype(np.float32).astype(np.float64)
        self._steps = 0
        return self._observations(np.arange(count))

    def step(self, live, action):
        """Lanes that are not ``live`` stand still."""
        torque = np.array(self._world.AVAIL_TORQUE)[action]
        angles, speeds = np.split(self._moved(np.vstack([self._state[:, live], torque]))[:4], 2)
        angles = (angles + np.pi) % (2 * np.pi) - np.pi
        self._state[:, live] = np.vstack([angles, np.clip(speeds, -self._limits, self._limits)])
        self._steps += 1
        terminated = -np.cos(angles[0]) - np.cos(angles[1] + angles[0]) > 1.0
        truncated = np.full(len(live), self._steps >= self.STEPS)
        return self._observations(live), np.where(terminated, 0.0, -1.0), terminated, truncated

    def _moved(self, state):
        """Classical Runge-Kutta over one time step, as Gymnasium takes it."""
        dt = self._world.dt
        k1 = self._change(state)
        k2 = self._change(state + dt / 2.0 * k1)
        k3 = self._change(state + dt / 2.0 * k2)
        k4 = self._change(state + dt * k3)
        return state + dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)

    def _change(self, state):
        """Sutton & Barto's equations of motion, with Gymnasium's masses and lengths put in."""
        theta1, theta2, speed1, speed2, torque = state
        sine, cosine = np.sin(theta2), np.cos(theta2)
        d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
        phi2 = 4.9 * np.sin(theta1 + theta2)
        phi1 = phi2 + 14.7 * np.sin(theta1) - (0.5 * speed2 + speed1) * speed2 * sine
        share = d2 / d1
        faster2 = (torque + share * phi1 - phi2 - 0.5 * speed1**2 * sine) / (1.25 - d2 * share)
        return np.array([speed1, speed2, -share * faster2 - phi1 / d1, faster2, np.zeros_like(torque)])

    def _observations(self, live):
        theta1, theta2, speed1, speed2 = self._state[:, live]
        rows = [np.cos(theta1), np.sin(theta1), np.cos(theta2), np.sin(theta2), speed1, speed2]
        return np.array(rows, np.float32).T
