import io
import json
import zipfile

import numpy as np
import pytest

from experience import codec
from experience.errors import InputError


@pytest.fixture
def decode():
    """Decode bytes as a file of the given name."""

    def run(data, name="e.npz", **limits):
        return codec.decode(
            data, name=name, source_sha256="s" * 64, ingested_at=5.0, limits=codec.Limits(**limits)
        )

    return run


@pytest.fixture
def problem_of(decode):
    """The problem that a file is refused with, as a whole or as its only episode."""

    def run(data, name="e.npz", **limits):
        try:
            decoded = decode(data, name, **limits)
        except InputError as error:
            return error.problem
        assert decoded.episodes == ()
        (problem,) = decoded.problems
        return problem

    return run


META = {"episode_id": "e1", "client_id": "bot", "terminated": True, "truncated": False}


@pytest.fixture
def arrays():
    """The arrays of a small valid npz file: three steps, two actions, four observed numbers."""
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(4, 4)).astype(np.float32),
        "action": np.array([0, 1, 1]),
        "reward": np.array([1.0, 0.5, -2.0]),
    }


@pytest.fixture
def npz(arrays):
    """Bytes of an npz file as plain NumPy writes it; fields can be replaced, or left out with None."""

    def build(*, meta=META, compressed=False, **fields):
        members = {**arrays, **fields}
        if meta is not None:
            members["meta"] = json.dumps(meta) if isinstance(meta, dict) else meta
        file = io.BytesIO()
        save = np.savez_compressed if compressed else np.savez
        save(file, **{name: value for name, value in members.items() if value is not None})
        return file.getvalue()

    return build


@pytest.fixture
def zipped():
    """Bytes of a zip file with the given members."""

    def build(members, method=zipfile.ZIP_STORED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file.getvalue()

    return build


HEADER = {"episode_id": "e1", "client_id": "bot", "policy_version": 3}
END = {"final_obs": [0.5, 0.5], "terminated": True, "truncated": False}


@pytest.fixture
def steps():
    return [
        {"obs": [0.25, 1], "action": 0, "reward": 1.0, "logp": -0.5},
        {"obs": [0.5, -1.5], "action": 1, "reward": 0.0, "logp": -0.75},
    ]


@pytest.fixture
def jsonl(steps):
    """Bytes of a JSONL file: the given lines, or one whole episode."""

    def build(*lines):
        objects = lines or (HEADER, *steps, END)
        return b"".join(json.dumps(line).encode() + b"\n" for line in objects)

    return build
