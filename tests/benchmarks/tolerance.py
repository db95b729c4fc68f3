"""How far weights move when they are computed elsewhere: other threads, or the other gradient. Fresh weights.

    python tests/benchmarks/tolerance.py

What `learnerd replay --verify` takes for "within tolerance" has to cover this; see `learnerd.verify`.
"""

import numpy as np
import torch
from speed_site import SPEC, episodes

from experience.collate import collate
from learnerd.verify import ATOL, RTOL
from policies.initial import initial_checkpoint
from policies.learner import Learner
from policies.settings import LearnerSettings
from policies.spec import PolicySpec

HIDDEN = ((64, 64), (512, 512))
UPDATES = (1, 4, 16)
EPISODES = 8


def train(spec, batches, *, path, threads):
    """The weights after one update a batch."""
    torch.set_num_threads(threads)
    learner = Learner(initial_checkpoint(spec, seed=0), LearnerSettings(), path=path)
    for seed, batch in enumerate(batches):
        learner.update(batch, seed=seed)
    return learner.weights()


def distance(one, other):
    """Largest absolute difference; and as a share of what the tolerance allows."""
    gaps = {name: np.abs(one[name].astype(np.float64) - other[name]) for name in one}
    share = max(float((gap / (ATOL + RTOL * np.abs(other[name]))).max()) for name, gap in gaps.items())
    return max(float(gap.max()) for gap in gaps.values()), share


def main():
    """Print a line a network and number of updates."""
    for hidden in HIDDEN:
        spec = PolicySpec(observation_shape=SPEC.observation_shape, action=SPEC.action, hidden=hidden)
        base = initial_checkpoint(spec, seed=0)
        for updates in UPDATES:
            made = [episodes(EPISODES, policy=base) for _ in range(updates)]
            batches = [collate(some, observation_shape=spec.observation_shape) for some in made]
            torch_1 = train(spec, batches, path="torch", threads=1)
            for name, path, threads in (("torch, 2 threads", "torch", 2), ("numpy", "numpy", 1)):
                largest, share = distance(train(spec, batches, path=path, threads=threads), torch_1)
                work = f"{hidden}, {updates} updates of {batches[0].n_steps} steps, {name}"
                print(f"{work} against torch, 1 thread: {largest:.1e}, {share:.3f} of the tolerance")


if __name__ == "__main__":
    main()
