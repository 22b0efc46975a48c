"""Encoded pictures: bounded, least recently used out first, apart for each customer."""

from inference.pool.backend import Embedding
from inference.pool.embedding_cache import CacheKey, EmbeddingCache


def key(name: str, organization: str = "a") -> CacheKey:
    return CacheKey("checkpoint", organization, name.encode())


def test_the_least_recently_used_is_given_up_first() -> None:
    cache = EmbeddingCache(bytes_max=30)
    for name in ("one", "two", "three"):
        cache.put(key(name), Embedding(name, 10))
    cache.get(key("one"))
    cache.put(key("four"), Embedding("four", 10))
    assert [name for name in ("one", "two", "three", "four") if cache.get(key(name))] == ["one", "three", "four"]
    assert cache.bytes_held == 30


def test_customers_do_not_see_each_others_pictures() -> None:
    cache = EmbeddingCache(bytes_max=30)
    cache.put(key("one", "a"), Embedding("one", 10))
    assert cache.get(key("one", "b")) is None


def test_replacing_counts_once_and_what_is_too_large_is_not_kept() -> None:
    cache = EmbeddingCache(bytes_max=30)
    cache.put(key("one"), Embedding("one", 10))
    cache.put(key("one"), Embedding("one again", 20))
    cache.put(key("huge"), Embedding("huge", 31))
    assert cache.bytes_held == 20
    assert cache.get(key("huge")) is None
