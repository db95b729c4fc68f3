"""Which versions that acted stay in memory."""

from types import SimpleNamespace

import numpy as np

from learnerd.behavior import BehaviorCache
from policies.errors import StoreError, VersionPruned


class Store:
    """Counts reads; versions below ``first`` are gone."""

    def __init__(self):
        self.read, self.first = [], 1

    def actor(self, version):
        self.read.append(version)
        if version < self.first:
            raise VersionPruned(version=version)
        return SimpleNamespace(version=version, weights={"policy.0.bias": np.zeros(25, np.float32)})


def test_the_versions_used_last_are_read_once():
    store = Store()
    cache = BehaviorCache(store, most_bytes=300)
    assert [cache(version).version for version in (1, 2, 3, 1, 2, 3)] == [1, 2, 3, 1, 2, 3]
    assert store.read == [1, 2, 3]
    for version in (1, 4, 1, 3, 2):  # 4 pushes out 2, 2 pushes out 4
        cache(version)
    assert store.read == [1, 2, 3, 4, 2]
    cache(4)
    assert store.read == [1, 2, 3, 4, 2, 4]


def test_many_small_versions_are_bounded_by_their_number():
    store = Store()
    cache = BehaviorCache(store, most_versions=3)
    for version in (1, 2, 3, 4, 4, 3, 2, 1):
        cache(version)
    assert store.read == [1, 2, 3, 4, 1]


def test_one_larger_than_the_bound_stays_until_the_next():
    store = Store()
    cache = BehaviorCache(store, most_bytes=10)
    for version in (1, 1, 2, 2, 1):
        cache(version)
    assert store.read == [1, 2, 1]


def test_what_cannot_be_read_is_none_and_asked_for_again(monkeypatch):
    store = Store()
    cache = BehaviorCache(store)
    store.first = 5
    assert cache(3) is None
    store.first = 1
    assert cache(3).version == 3
    monkeypatch.setattr(store, "actor", lambda _: (_ for _ in ()).throw(StoreError("too many open files")))
    assert cache(3).version == 3
    assert cache(4) is None
