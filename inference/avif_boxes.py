"""Bounds on the tables in an AVIF file, checked before its reader sees it.

The reader's work grows with the square of the number of items, and its memory with the number of frames, neither of
which has to be backed by pixels: measured with libavif 1.x, 360 KB of item locations hold the interpreter for eight
seconds. (ISO/IEC 14496-12 describes the boxes.)
"""

import struct
from collections.abc import Iterator

BOXES_MAX = 256
ITEM_TABLE_BYTES_MAX = 16 * 1024  # about a thousand items; a picture of 256 tiles needs a third
PROPERTIES_BYTES_MAX = 4 * 1024 * 1024  # colour profiles are in here
TRACKS_BYTES_MAX = 1024 * 1024
FRAMES_MAX = 20_000

_UNBOUNDED = frozenset({b"idat"})  # pixels
_ITEM_TABLES = (b"iinf", b"iloc", b"ipma", b"iref")

Box = tuple[bytes, memoryview]  # type, content


def is_avif(data: bytes) -> bool:
    """Whether this is a file of the family that AVIF belongs to."""
    return data[4:8] == b"ftyp"


def has_bounded_tables(data: bytes) -> bool:
    """Whether an AVIF file, well-formed or not, can be opened for little time and memory."""
    try:
        return all(_is_bounded(kind, content) for kind, content in _boxes(memoryview(data)))
    except (struct.error, _TooMany):
        return False


class _TooMany(Exception):
    """More boxes than any picture needs."""


def _is_bounded(kind: bytes, content: memoryview) -> bool:
    if kind == b"meta":
        return all(_is_bounded_in_meta(*box) for box in _boxes(content[4:]))
    if kind == b"moov":
        return len(content) <= TRACKS_BYTES_MAX and _are_bounded_tracks(bytes(content))
    return True


def _is_bounded_in_meta(kind: bytes, content: memoryview) -> bool:
    if kind == b"iprp":
        return all(
            len(inner) <= (PROPERTIES_BYTES_MAX if name == b"ipco" else ITEM_TABLE_BYTES_MAX)
            for name, inner in _boxes(content)
        )
    return kind in _UNBOUNDED or len(content) <= ITEM_TABLE_BYTES_MAX


def _are_bounded_tracks(moov: bytes) -> bool:
    """Tables are found by their names at any depth: what only looks like one is held to the same bounds."""
    if any(_size_before(moov, at) > ITEM_TABLE_BYTES_MAX for name in _ITEM_TABLES for at in _places(moov, name)):
        return False
    chunks = sum(_number(moov, at + 8) for name in (b"stco", b"co64") for at in _places(moov, name))
    frames_per_chunk = 0
    for at in _places(moov, b"stsc"):
        entries = min(_number(moov, at + 8), len(moov) // 12)
        for entry in range(at + 12, at + 12 + 12 * entries, 12):
            frames_per_chunk = max(frames_per_chunk, _number(moov, entry + 4))
    return chunks * frames_per_chunk <= FRAMES_MAX


def _boxes(data: memoryview) -> Iterator[Box]:
    """The boxes that lie side by side in `data`. The last one may be cut off."""
    at = 0
    for _ in range(BOXES_MAX):
        if at + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        end = len(data) if size == 0 else at + size
        if end < begin:
            return  # not a box; the reader stops here as well
        yield kind, data[begin:end]
        at = end
    raise _TooMany


def _places(data: bytes, name: bytes) -> Iterator[int]:
    """Where `name` stands, a few times at most: one table of a kind per track."""
    at = -1
    for _ in range(BOXES_MAX):
        at = data.find(name, at + 1)
        if at < 0:
            return
        yield at
    raise _TooMany


def _size_before(data: bytes, at: int) -> int:
    """The size of the box whose type stands at `at`; one that is told elsewhere counts as too large."""
    size = _number(data, at - 4) if at >= 4 else 0
    return size if size >= 8 else ITEM_TABLE_BYTES_MAX + 1


def _number(data: bytes, at: int) -> int:
    """A 32-bit number, 0 past the end."""
    return int.from_bytes(data[at : at + 4], "big") if at + 4 <= len(data) else 0
