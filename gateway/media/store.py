"""Where results are kept until their time is up."""

import asyncio
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
SWEEP_BATCH = 10_000
ROUTE = "/media/"

_KEY = re.compile(r"[0-9a-f]{32}/[0-9]{8}/[A-Za-z0-9_-]{27}\.(?:png|jpeg|webp)")


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

    async def sweep(self, older_than: datetime) -> int:
        """Delete up to SWEEP_BATCH files written before `older_than`; how many."""
        ...


class LocalStore:
    """Files below `root`: organization/day/random name. Served by this gateway under signed links."""

    def __init__(self, root: Path, *, base_url: str, signer: LinkSigner) -> None:
        self._root = root
        self._base_url = base_url
        self._signer = signer

    async def put(self, organization_id: UUID, data: bytes, media_type: str) -> str:
        """Write under a temporary name, then rename: a reader sees the whole file or none."""
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

    async def sweep(self, older_than: datetime) -> int:
        """Remove old files, and the day folders that this empties."""
        return await asyncio.to_thread(_sweep, self._root, older_than)

    def _path(self, key: str) -> Path:
        return self._root / key


def is_key(text: str) -> bool:
    """Whether `text` has the form of our keys; nothing else ever becomes a path."""
    return _KEY.fullmatch(text) is not None


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
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sweep(root: Path, older_than: datetime) -> int:
    """Day folders tell the date, so younger ones are not even listed."""
    limit, day_limit = older_than.timestamp(), f"{older_than:%Y%m%d}"
    removed = 0
    for day in sorted(root.glob("*/*")):
        if day.name > day_limit:
            continue
        with os.scandir(day) as files:
            for file in files:
                if removed >= SWEEP_BATCH:
                    return removed
                if file.stat().st_mtime < limit:
                    Path(file.path).unlink(missing_ok=True)
                    removed += 1
        if day.name < day_limit:
            try:
                day.rmdir()
            except OSError:
                continue  # something younger is still in it
    return removed
