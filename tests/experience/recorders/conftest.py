import pytest

from experience.codec import decode


@pytest.fixture
def deposited(tmp_path):
    """Every file in the spool, as the daemon reads it, in the order in which they were written."""

    def read():
        files = sorted((tmp_path / "spool/in").glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
        return [
            decode(file.read_bytes(), name=file.name, source_sha256="0" * 64, ingested_at=1.0).episodes[0]
            for file in files
        ]

    return read
