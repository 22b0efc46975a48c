"""Why a picture cannot be taken in, or a result cannot be given out.

MediaError
├── PictureTooLarge    more bytes than a picture may have
├── PictureUnreadable  not a data URI, base64 or address, or not a picture of a kind and size that can be segmented
├── AddressBlocked     the address may not be fetched from here
├── DownloadFailed     the address was asked and did not give a picture
└── LinkRefused        a result's link is not one of ours, was altered, has expired, or its file is gone
"""


class MediaError(Exception):
    """Base of this package's refusals; `message` says what to change, `param` which parameter is at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class PictureTooLarge(MediaError):
    """The encoded picture has more bytes than one picture may have."""


class PictureUnreadable(MediaError):
    """What was sent does not stand for a picture, or for one that cannot be segmented."""


class AddressBlocked(MediaError):
    """The address is of a kind that is never fetched: private networks, other schemes and ports, credentials."""


class DownloadFailed(MediaError):
    """The address did not answer with a picture in time."""


class LinkRefused(MediaError):
    """The link to a result cannot be honoured. One answer for all reasons, so that probing learns nothing."""
