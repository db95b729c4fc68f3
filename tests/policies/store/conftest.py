"""The store's tests share ``store_tools``, which their worker processes import too."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def state(tmp_path):
    """A state folder in memory where there is one: fsync is called there as anywhere, but costs nothing."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path / "state"
        return
    folder = Path(tempfile.mkdtemp(dir=memory, prefix="learnerd-test-"))
    yield folder / "state"
    shutil.rmtree(folder)
