"""Recorders: wrappers that deposit what an existing loop plays; each needs its own library only."""
