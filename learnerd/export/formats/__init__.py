"""Formats, a module each: ``encode(source, observations) -> Exported``; registered in ``learnerd.export``."""
