"""Take a picture in, however it was sent: uploaded bytes, a data URI, bare base64, or a URL."""

import asyncio
import base64
import re
from concurrent.futures import ThreadPoolExecutor

from gateway.media.downloader import Downloader
from gateway.media.errors import MediaError, PictureTooLarge, PictureUnreadable
from inference.errors import InputRejected
from inference.pictures import inspect
from inference.task import Picture

PICTURE_BYTES_MAX = 20 * 1024 * 1024
BASE64_CHARACTERS_MAX = PICTURE_BYTES_MAX * 4 // 3 * 78 // 76 + 1024  # in lines of 76, with what precedes it
INSPECTION_THREADS = 4
INLINE_BYTES_MAX = 64 * 1024  # looking at less than this costs less than a change of thread
INLINE_CHARACTERS_MAX = INLINE_BYTES_MAX

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*):", re.IGNORECASE)  # base64 has no colon
_DATA_URI = re.compile(r"\s*data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;\s?base64,", re.IGNORECASE)


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
        if (complaint := _markup_complaint(data)) is not None:
            raise PictureUnreadable(complaint, param=param)
        try:
            if len(data) <= INLINE_BYTES_MAX:
                return inspect(data)
            return await asyncio.get_running_loop().run_in_executor(self._executor, inspect, data)
        except InputRejected as error:
            raise PictureUnreadable(error.message, param=param) from None

    def close(self) -> None:
        """Let the threads go."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _bytes(self, source: str | bytes) -> bytes:
        if isinstance(source, bytes):
            return source
        scheme = _SCHEME.match(source[:64])
        is_data = scheme is not None and scheme[1].lower() == "data"
        if scheme is not None and not is_data:
            return await self._downloader.fetch(source.strip())
        if len(source) > BASE64_CHARACTERS_MAX:
            raise PictureTooLarge(f"The picture has more than {PICTURE_BYTES_MAX // 2**20} MiB.")
        encoded = _payload(source) if is_data else source
        if len(encoded) <= INLINE_CHARACTERS_MAX:
            return _decode(encoded)
        return await asyncio.get_running_loop().run_in_executor(self._executor, _decode, encoded)


def _payload(uri: str) -> str:
    match = _DATA_URI.match(uri[:1024])
    if match is None:
        raise PictureUnreadable("The data URI is not of the form 'data:image/png;base64,…'.")
    return uri[match.end() :]


def _decode(encoded: str) -> bytes:
    """Padding is optional; white space and signs that are percent-encoded, as in URLs, are understood."""
    try:
        text = encoded.encode("ascii").translate(None, b" \t\r\n\v\f")
        if b"%" in text:
            for sign, escapes in ((b"+", (b"%2B", b"%2b")), (b"/", (b"%2F", b"%2f")), (b"=", (b"%3D", b"%3d"))):
                for escape in escapes:
                    text = text.replace(escape, sign)
        text = text.rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:  # also binascii's
        raise PictureUnreadable(
            "The picture is neither an http(s) URL, nor a data URI, nor valid base64. Send one of these, or a file."
        ) from None


def _markup_complaint(data: bytes) -> str | None:
    """What is sent most often in the place of a picture."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head.startswith(b"<"):
        return None
    if head.startswith((b"<!doctype html", b"<html")):
        return "This is a web page, not a picture: send the address of the picture itself."
    if b"<svg" in head:
        return "SVG drawings cannot be segmented: convert this one to PNG first."
    return None
