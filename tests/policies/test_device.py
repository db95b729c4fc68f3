"""What a GPU needs: no reading back inside of the epochs; and on a machine with one, the CPU's numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from policies import epochs
from policies.learner import Learner
from policies.settings import LearnerSettings
from policies.transfer import ALIGNED_BYTES, packed, to_device, unpacked

LENGTHS = (40, 30, 50)
NEVER = {"cpu": False}
STOPPED = {"learning_rate": 1e-2, "target_kl": 1e-4}

SETTINGS = {
    "defaults": {},
    "stopped": STOPPED,
    "stopped, no average": {**STOPPED, "prox_decay": 0.0},
    "stopped, sgd": {**STOPPED, "optimizer": "sgd", "learning_rate": 0.3},
    "no bound": {"target_kl": 0.0},
    "noise": {"noise_scale": True, **STOPPED},
    "pulled": {"l2_init": 1e-2},
    "plain": {"decoupled": False, "ess_scaling": False, "joint_clip": True, **STOPPED},
    "minibatch moments": {"advantage_normalization": "minibatch"},
}


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a device, from the first permuted rows to the last weights.

    A number that is read on its own is an operation; whole tensors are read by methods, which are replaced.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.scalars, self.tensors = 0, 0
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))

    def _counted(self, method):
        def counted(tensor, *args, **kwargs):
            self.tensors += 1
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")
        self.scalars += any(name in func.name() for name in waits)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(epochs, "LOOKS_AFTER_EPOCHS", NEVER)


def batch_for(make_batch, base):
    batch = make_batch(LENGTHS, seed=3)
    own = Learner(base, LearnerSettings()).log_probs(batch)
    logp = own + 0.3 * np.random.default_rng(5).normal(size=batch.n_steps)
    return dataclasses.replace(batch, logp=logp)


def trained(base, batch, settings, **options):
    learner = Learner(base, settings, **options)
    reports = [dataclasses.asdict(learner.update(batch, seed=seed)) for seed in range(2)]
    for report in reports:
        del report["seconds"]
    return learner, reports


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_epochs_are_read_once_at_their_end(make_checkpoint, make_batch, monkeypatch, name):
    base = make_checkpoint()
    learner = Learner(base, LearnerSettings(**SETTINGS[name]), path="torch")
    run, counted = epochs.Epochs.run, []

    def watched(self, rows, orders):
        with monkeypatch.context() as patches, HostReads(patches) as reads:
            means = run(self, rows, orders)
        counted.append((reads.scalars, reads.tensors))
        return means

    monkeypatch.setattr(epochs.Epochs, "run", watched)
    learner.update(batch_for(make_batch, base), seed=0)
    assert counted == [(0, 1)]


def test_reads_are_counted(make_checkpoint, make_batch, monkeypatch):
    """On a CPU the host does look after every epoch: the test above would notice."""
    base = make_checkpoint()
    batch = batch_for(make_batch, base)
    learner = Learner(base, LearnerSettings(), path="torch")
    with monkeypatch.context() as patches, HostReads(patches) as reads:
        learner.update(batch, seed=0)
    assert reads.scalars > 0
    assert reads.tensors > 1


@pytest.mark.parametrize("name", SETTINGS)
def test_epochs_thrown_away_are_as_if_they_had_not_been(make_checkpoint, make_batch, monkeypatch, name):
    """Bit for bit: weights, moments, averages, counters, and what is reported."""
    base, settings = make_checkpoint(), LearnerSettings(**SETTINGS[name])
    batch = batch_for(make_batch, base)
    ended, reports = trained(base, batch, settings, path="torch")
    monkeypatch.setattr(epochs, "LOOKS_AFTER_EPOCHS", NEVER)
    ours, ours_reports = trained(base, batch, settings, path="torch")
    if "target_kl" in SETTINGS[name] and name != "no bound":
        assert any(report["value_steps"] < 16 for report in reports)  # or it would be no test
    assert ours_reports == reports
    assert_same(ours, ended, exactly=True)


def assert_same(ours, theirs, *, exactly, tolerance=0.0):
    compare = np.testing.assert_array_equal if exactly else _close(tolerance)
    for name, array in theirs.weights().items():
        compare(ours.weights()[name], array, err_msg=name)
    found, expected = ours.delta(), theirs.delta()
    assert found.counters == expected.counters
    assert found.averages.keys() == expected.averages.keys()
    for name, average in expected.averages.items():
        compare(found.averages[name].value, average.value, err_msg=name)
        assert found.averages[name].retained == average.retained


def _close(tolerance):
    return lambda found, expected, **options: np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance, **options
    )


def test_arrays_come_out_of_one_move_as_they_went_in():
    rng = np.random.default_rng(0)
    arrays = {
        "obs": rng.normal(size=(7, 3)).astype(np.float32),
        "action": rng.integers(0, 5, 7),
        "mask": rng.random((7, 5)) < 0.5,
        "nothing": np.zeros((0, 3), np.float32),
        "across": rng.normal(size=(3, 7)).T,
    }
    tensors = unpacked(packed(arrays), arrays)
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].data_ptr() % ALIGNED_BYTES == 0 or not array.size
        np.testing.assert_array_equal(tensors[name].numpy(), array, err_msg=name, strict=True)


def test_on_a_cpu_only_read_only_arrays_are_copied():
    free, fixed = np.zeros(3), np.zeros(3)
    fixed.setflags(write=False)
    tensors = to_device({"free": free, "fixed": fixed}, "cpu")
    assert np.shares_memory(tensors["free"].numpy(), free)
    assert not np.shares_memory(tensors["fixed"].numpy(), fixed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU HERE: the CUDA path is not tested at all")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_gpu_ends_where_the_cpu_ends(make_checkpoint, make_batch, name):
    base, settings = make_checkpoint(), LearnerSettings(**SETTINGS[name])
    batch = batch_for(make_batch, base)
    cpu, reports = trained(base, batch, settings, path="torch")
    gpu, gpu_reports = trained(base, batch, settings, device="cuda")
    assert_same(gpu, cpu, exactly=False, tolerance=1e-5)
    for report, other in zip(gpu_reports, reports, strict=True):
        noise, other_noise = report.pop("noise"), other.pop("noise")
        assert report == pytest.approx(other, rel=1e-3, abs=1e-4)
        assert noise == (None if other_noise is None else pytest.approx(other_noise, rel=1e-2))
