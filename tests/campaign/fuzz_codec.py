"""Coverage-guided fuzzing of the readers: ``python tests/campaign/fuzz_codec.py .npz --seconds 60``.

With atheris where it is installed (``pip install atheris``: there are wheels for Linux and some Pythons),
else with mutations at random. Each format runs in processes of its own: a crash in native code ends one, is
counted, and the next goes on. Such a crash costs the daemon one decoder process; an exception that is no
verdict, or a wrong episode, is a violation.
"""

import argparse
import importlib.util
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent / "hostile"), str(FOLDER.parents[1])]

FORMATS = (".npz", ".jsonl", ".parquet", ".arrow")
MEMORY_MIB = 3072
_DONE = re.compile(r"^fuzzed (\d+)", re.MULTILINE)
_STATUS = re.compile(r"^#(\d+)\s", re.MULTILINE)
VIOLATION = 3
"""Exit status of a process that found a violation."""


def fuzz(*, seconds: float, seed: int, formats=FORMATS) -> tuple[list[str], int, str]:
    """Fuzz each format for an equal part of ``seconds``.

    Returns:
        Violations, inputs tried, and the engine's name.
    """
    engine = "atheris" if importlib.util.find_spec("atheris") else "random mutations"
    violations, total, crashes = [], 0, 0
    for extension in formats:
        until = time.monotonic() + seconds / len(formats)
        while (left_s := until - time.monotonic()) > 2.0:
            seed += 1
            status, runs, output = _process(extension, left_s, seed)
            total += runs
            if status == VIOLATION:
                violations.append(f"fuzzing {extension}: {output[-1500:]}")
                break
            crashes += status != 0
    return violations, total, f"{engine} ({crashes} native crashes, each costs one decoder process)"


def _process(extension: str, seconds: float, seed: int) -> tuple[int, int, str]:
    command = [sys.executable, __file__, extension, "--seconds", str(int(seconds)), "--seed", str(seed)]
    try:
        result = subprocess.run(command, capture_output=True, timeout=seconds + 120, check=False)
    except subprocess.TimeoutExpired:
        return 0, 0, "took too long to end"
    output = (result.stdout + result.stderr).decode(errors="replace")
    counts = [int(count) for count in _DONE.findall(output) or _STATUS.findall(output)]
    return result.returncode, max(counts, default=0), output


def one_input(extension: str, data: bytes) -> None:
    """Try one input; end the process with VIOLATION when what must hold does not."""
    from properties import check  # noqa: PLC0415 - after the instrumentation

    try:
        check(_wrapped(data) if extension == ".npz" else data, f"e{extension}")
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
        path = Path(tempfile.gettempdir()) / f"fuzz-finding-{os.getpid()}{extension}"
        path.write_bytes(data)
        print(f"{type(error).__name__}: {error}; the input is {path}", flush=True)
        import traceback  # noqa: PLC0415 - for findings only

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(VIOLATION)


def _wrapped(data: bytes) -> bytes:
    """Most mutations of a zip file end at its checksums; so members are mutated, and zipped anew."""
    if data[:1] != b"M":
        return data
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in zip(
            ("obs", "action", "reward", "meta"), data[1:].split(b"\xff\xfe\xfd"), strict=False
        ):
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def seeds(extension: str) -> list[bytes]:
    """Valid inputs to begin with."""
    from corpus import SMALL  # noqa: PLC0415 - after the instrumentation

    good = SMALL[extension](1.8e9)
    if extension != ".npz":
        return [good]
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = [archive.read(f"{name}.npy") for name in ("obs", "action", "reward", "meta")]
    return [good, b"M" + b"\xff\xfe\xfd".join(members)]


def with_atheris(extension: str, seconds: int, seed: int) -> None:
    """Let libFuzzer do it; it ends the process."""
    import atheris  # noqa: PLC0415 - may be missing

    with atheris.instrument_imports(include=["experience"]):
        import experience.codec  # noqa: PLC0415 - instrumented as they are imported
        import experience.codec.jsonl  # noqa: PLC0415
        import experience.codec.npz  # noqa: PLC0415
        import experience.codec.tables  # noqa: PLC0415
    import experience.codec.arrow  # noqa: PLC0415
    import experience.codec.parquet  # noqa: F401, PLC0415

    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(seeds(extension)):
            (Path(folder) / str(i)).write_bytes(data)
        options = [
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-rss_limit_mb={MEMORY_MIB}",
            "-max_len=8192",
        ]
        quiet = ["-print_final_stats=0", "-timeout=60", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *options, *quiet, folder], lambda data: one_input(extension, data))
        atheris.Fuzz()


def at_random(extension: str, seconds: int, seed: int) -> None:
    """Cut, repeat, overwrite and splice valid inputs, keeping those that gave a new verdict."""
    from properties import check  # noqa: PLC0415 - as above

    chance, pool, seen, runs = random.Random(seed), seeds(extension), set(), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = bytearray(chance.choice(pool))
        for _ in range(chance.randint(1, 6)):
            at, size = chance.randrange(len(data) + 1), chance.choice((0, 1, 2, 4, 8, 64))
            put = chance.choice(
                (b"", chance.randbytes(size), bytes(size), b"\xff" * size, chance.choice(pool)[:size])
            )
            data[at : at + chance.choice((0, size))] = put
        one_input(extension, bytes(data))
        runs += 1
        if runs % 50 == 0:
            continue
        verdict = check(_wrapped(bytes(data)) if extension == ".npz" else bytes(data), f"e{extension}")
        if verdict not in seen:
            seen.add(verdict)
            pool.append(bytes(data))
    print(f"fuzzed {runs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    engine = with_atheris if importlib.util.find_spec("atheris") else at_random
    engine(arguments.format, arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
