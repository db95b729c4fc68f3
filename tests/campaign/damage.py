"""Damage to a version directory, as a bad disk, a half-finished restore or a hand that slipped leaves it."""

import shutil

MODEL = "model.safetensors"


def flip_bit(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut_short(path, rng):
    with path.open("r+b") as stream:
        stream.truncate(rng.randrange(path.stat().st_size))


def remove(path, rng):
    path.unlink()


def damage(folder, rng, *, only=None):
    """Damage one file of a version, or all of it; says what was done.

    Args:
        folder: the version's.
        rng: chooses.
        only: file names to choose from; None: any file, or the whole folder.
    """
    if only is None and rng.random() < 0.1:
        shutil.rmtree(folder)
        folder.mkdir()
        return "everything removed"
    names = sorted(path.name for path in folder.iterdir())
    name = rng.choice([n for n in names if only is None or n in only])  # IndexError: damaged already
    how = rng.choice([flip_bit, cut_short, remove])
    how(folder / name, rng)
    return f"{how.__name__} {name}"
