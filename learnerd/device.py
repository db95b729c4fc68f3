"""Device: where the arithmetic runs."""

import torch


def choose_device(wanted: str) -> str:
    """Resolve "auto": a GPU when torch sees one, else the CPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
