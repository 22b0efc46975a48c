"""Take a picture in, however it was sent: uploaded bytes, a data URI, bare base64, or a URL."""

import asyncio
import base64
import binascii
import re
from concurrent.futures import ThreadPoolExecutor

from gateway.media.downloader import Downloader
from gateway.media.errors import MediaError, PictureTooLarge, PictureUnreadable
from inference.errors import InputRejected
from inference.pictures import inspect
from inference.task import Picture

PICTURE_BYTES_MAX = 20 * 1024 * 1024
BASE64_CHARACTERS_MAX = PICTURE_BYTES_MAX * 4 // 3 + 64
INSPECTION_THREADS = 4
INLINE_CHARACTERS_MAX = 64 * 1024  # decoding less than this costs less than a change of thread

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.IGNORECASE)


class Intake:
    """Makes checked pictures of what customers send. Only headers are read; the pixels are the pool's business."""

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader
        self._executor = ThreadPoolExecutor(INSPECTION_THREADS, thread_name_prefix="intake")

    async def picture(self, source: str | bytes, *, param: str) -> Picture:
        """The picture behind `source`; `param` is the parameter that it came in.

        Raises a MediaError naming `param`. Type and name that the sender claims are ignored.
        """
        try:
            data = await self._bytes(source)
        except MediaError as error:
            error.param = param
            raise
        if len(data) > PICTURE_BYTES_MAX:
            raise PictureTooLarge(f"The picture has more than {PICTURE_BYTES_MAX // 2**20} MiB.", param=param)
        if _is_svg(data):
            raise PictureUnreadable("SVG drawings cannot be segmented: convert this one to PNG first.", param=param)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, inspect, data)
        except InputRejected as error:
            raise PictureUnreadable(error.message, param=param) from None

    def close(self) -> None:
        """Let the threads go."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _bytes(self, source: str | bytes) -> bytes:
        if isinstance(source, bytes):
            return source
        head = source[:16].lstrip().lower()
        if head.startswith(("http://", "https://")):
            return await self._downloader.fetch(source.strip())
        if len(source) > BASE64_CHARACTERS_MAX:
            raise PictureTooLarge(f"The picture has more than {PICTURE_BYTES_MAX // 2**20} MiB.")
        encoded = _payload(source) if head.startswith("data:") else source
        if len(encoded) <= INLINE_CHARACTERS_MAX:
            return _decode(encoded)
        return await asyncio.get_running_loop().run_in_executor(self._executor, _decode, encoded)


def _payload(uri: str) -> str:
    match = _DATA_URI.match(uri[:1024].lstrip())
    if match is None or not match[3]:
        raise PictureUnreadable("The data URI is not of the form 'data:image/png;base64,…'.")
    return uri.lstrip()[match.end() :]


def _decode(encoded: str) -> bytes:
    try:
        text = "".join(encoded.split()) if re.search(r"\s", encoded) else encoded
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PictureUnreadable(
            "The picture is neither an http(s) URL, nor a data URI, nor valid base64. Send one of these, or a file."
        ) from None


def _is_svg(data: bytes) -> bool:
    head = data[:512].lstrip().lower()
    return head.startswith((b"<svg", b"<?xml")) and b"<svg" in head
