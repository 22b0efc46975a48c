"""Encoded pictures kept for further prompts: least recently used out first, bounded by bytes."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from inference.pool.backend import Embedding


@dataclass(frozen=True, slots=True)
class CacheKey:
    """A picture of one customer under one checkpoint.

    The organization is part of the key because a hit is faster than a miss: shared entries would tell one customer
    which pictures another one has sent.
    """

    checkpoint: str
    organization: str
    digest: bytes


class EmbeddingCache:
    """Safe across threads. An embedding that is in use outlives its eviction."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[CacheKey, Embedding] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes_held = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: CacheKey) -> Embedding | None:
        """The embedding, marked as just used, or None."""
        with self._lock:
            embedding = self._entries.get(key)
            if embedding is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return embedding

    def put(self, key: CacheKey, embedding: Embedding) -> None:
        """Keep an embedding; one that is larger than the whole cache is not kept."""
        if embedding.nbytes > self._bytes_max:
            return
        with self._lock:
            previous = self._entries.pop(key, None)
            if previous is not None:
                self.bytes_held -= previous.nbytes
            self._entries[key] = embedding
            self.bytes_held += embedding.nbytes
            while self.bytes_held > self._bytes_max:
                _, evicted = self._entries.popitem(last=False)
                self.bytes_held -= evicted.nbytes
