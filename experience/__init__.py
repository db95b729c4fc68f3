"""Episodes on disk: what a client writes, and how it becomes a batch. Loads neither torch nor pyarrow."""

from experience.episode import Episode, EpisodeKey
from experience.join import RewardJoin
from experience.writer import EpisodeWriter

__all__ = ["Episode", "EpisodeKey", "EpisodeWriter", "RewardJoin"]
