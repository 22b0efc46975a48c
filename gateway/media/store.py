"""Where results are kept until their time is up."""

import asyncio
import contextlib
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

from gateway.media.signed_links import LinkSigner
from gateway.settings import Settings

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
}
MEDIA_TYPES = {extension: media_type for media_type, extension in EXTENSIONS.items()}
SWEEP_BATCH = 100_000
ROUTE = "/media/"

_ORGANIZATION = re.compile(r"[0-9a-f]{32}")
_DAY = re.compile(r"[0-9]{8}")
_FILE = re.compile(r"[A-Za-z0-9_-]{27}\.(?:png|jpeg|webp)")
_LEFT_OVER = re.compile(r"[A-Za-z0-9_-]{27}\.part")  # of a write that its process did not live to finish


class MediaStore(Protocol):
    """A place for results. Keys are made here and mean nothing to anybody else."""

    async def put(self, organization_id: UUID, data: bytes, media_type: str) -> str:
        """Keep `data` durably and return its key. Raises ValueError for a type that results do not have."""
        ...

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`, or None."""
        ...

    async def delete(self, key: str) -> None:
        """Forget `key`; nothing happens if it is not there."""
        ...

    def url(self, key: str, *, expires_in_seconds: int) -> str:
        """A link that opens `key` for so long, without any key of the customer."""
        ...

    async def sweep(self, older_than: datetime, *, limit: int = SWEEP_BATCH) -> int:
        """Delete up to `limit` files written before `older_than`; how many. Again at once if it was `limit`."""
        ...


class LocalStore:
    """Files below `root`: organization/day/random name. Served by this gateway under signed links."""

    def __init__(self, root: Path, *, base_url: str, signer: LinkSigner) -> None:
        self._root = root
        self._base_url = base_url
        self._signer = signer

    async def put(self, organization_id: UUID, data: bytes, media_type: str) -> str:
        """Write the file and see it onto the disk."""
        extension = EXTENSIONS.get(media_type)
        if extension is None:
            raise ValueError(f"results are not of type {media_type}")
        key = f"{organization_id.hex}/{datetime.now(UTC):%Y%m%d}/{secrets.token_urlsafe(20)}.{extension}"
        await asyncio.to_thread(_write, self._path(key), data)
        return key

    async def get(self, key: str) -> bytes | None:
        """The file's bytes."""
        return await asyncio.to_thread(_read, self._path(key)) if is_key(key) else None

    async def delete(self, key: str) -> None:
        """Remove the file."""
        if is_key(key):
            await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    def url(self, key: str, *, expires_in_seconds: int) -> str:
        """The gateway's address of the file with a signature."""
        return f"{self._base_url}{ROUTE}{key}?{self._signer.query(key, expires_in_seconds=expires_in_seconds)}"

    async def sweep(self, older_than: datetime, *, limit: int = SWEEP_BATCH) -> int:
        """Remove old files, and the day folders that this empties. What is not ours is left alone."""
        return await asyncio.to_thread(_sweep, self._root, older_than, limit)

    def _path(self, key: str) -> Path:
        return self._root / key


def is_key(text: str) -> bool:
    """Whether `text` has the form of our keys; nothing else ever becomes a path."""
    match text.split("/"):
        case [organization, day, file]:
            return bool(_ORGANIZATION.fullmatch(organization) and _DAY.fullmatch(day) and _FILE.fullmatch(file))
        case _:
            return False


def open_media_store(settings: Settings, signer: LinkSigner) -> MediaStore:
    """The store that GATEWAY_MEDIA_URL names; by default a folder in the data folder. Raises ValueError."""
    if settings.media_url is None:
        root = settings.data_dir / "media"
    else:
        address = urlsplit(settings.media_url)
        if address.scheme != "file" or address.netloc or not address.path:
            raise ValueError("GATEWAY_MEDIA_URL must be of the form file:///folder")
        root = Path(unquote(address.path))
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    return LocalStore(root, base_url=settings.base_url, signer=signer)


def _write(path: Path, data: bytes) -> None:
    """Write under a temporary name and rename: a reader sees the whole file or none, also after a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # results are paid for: they are on the disk before the charge is
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sweep(root: Path, older_than: datetime, limit: int) -> int:
    """Day folders tell the date, so younger ones are not even listed."""
    older_than = older_than.astimezone(UTC)
    removed = 0
    for day in _day_folders(root, f"{older_than:%Y%m%d}"):
        removed += _sweep_day(day, older_than.timestamp(), limit - removed)
        if removed >= limit:
            break
        if day.name < f"{older_than:%Y%m%d}":
            with contextlib.suppress(OSError):  # something younger, or of somebody else, is still in it
                day.rmdir()
    return removed


def _day_folders(root: Path, last: str) -> list[Path]:
    """Oldest first, so that no organization waits for another's files to go."""
    folders = [
        day
        for organization in _folders(root, _ORGANIZATION)
        for day in _folders(organization, _DAY)
        if day.name <= last
    ]
    return sorted(folders, key=lambda day: day.name)


def _folders(parent: Path, name: re.Pattern[str]) -> list[Path]:
    with os.scandir(parent) as entries:
        return [Path(entry) for entry in entries if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]


def _sweep_day(day: Path, limit_timestamp: float, limit: int) -> int:
    removed = 0
    try:
        with os.scandir(day) as entries:
            for entry in entries:
                if removed >= limit:
                    break
                ours = _FILE.fullmatch(entry.name) or _LEFT_OVER.fullmatch(entry.name)
                if ours and entry.stat(follow_symlinks=False).st_mtime < limit_timestamp:
                    Path(entry).unlink()
                    removed += 1
    except FileNotFoundError:  # another process sweeps too; what it leaves is found the next time
        pass
    return removed
