"""The dashboard: a small process beside the daemon that shows over HTTP what ``learnerd status`` reads.

A process of its own, as it talks to strangers: it reads files like everybody else, and whatever becomes of
it, the daemon, its memory and its interpreter lock are out of reach. Loads neither torch, NumPy nor pyarrow.
"""
