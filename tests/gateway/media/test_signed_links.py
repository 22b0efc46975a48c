"""A link opens what it was made for, as long as it was made for, and nothing else."""

from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media.errors import LinkRefused
from gateway.media.signed_links import LINK_SECONDS_MAX, LinkSigner

PATH = "0198c1f000007000800000000000ffff/20260101/AAAAAAAAAAAAAAAAAAAAAAAAAAA.png"


class Clock:
    """Stands still until told otherwise."""

    def __init__(self, seconds: float = 1_800_000_000.5) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def parts(query: str) -> tuple[str, str]:
    """The moment of expiry and the signature of a link's query."""
    values = parse_qs(query, strict_parsing=True)
    return values["expires"][0], values["signature"][0]


def test_a_link_says_how_long_it_is_good_for_and_then_is_not() -> None:
    clock = Clock()
    signer = LinkSigner(["key"], clock=clock)
    expires, signature = parts(signer.query(PATH, expires_in_seconds=60))
    assert signer.seconds_left(PATH, expires, signature) == 60
    clock.seconds += 59
    assert signer.seconds_left(PATH, expires, signature) == 1
    clock.seconds += 0.5
    with pytest.raises(LinkRefused):
        signer.seconds_left(PATH, expires, signature)


def test_a_link_opens_nothing_else_and_lasts_no_longer() -> None:
    signer = LinkSigner(["key"], clock=Clock())
    expires, signature = parts(signer.query(PATH, expires_in_seconds=60))
    later = str(int(expires) + 1)
    attempts = [
        (PATH.replace("0198", "0199"), expires, signature),
        (PATH.replace("png", "webp"), expires, signature),
        (PATH + "/", expires, signature),
        (f"{PATH}\n{expires}", "", signature),
        (PATH, later, signature),
        (PATH, f" {expires}", signature),
        (PATH, f"0{expires}", signature),
        (PATH, f"+{expires}", signature),
        (PATH, "", signature),
        (PATH, expires, ""),
        (PATH, expires, signature[:-1]),
        (PATH, expires, signature + "0"),
        (PATH, expires, signature.upper()),
        (PATH, expires, "é" * 64),
        (PATH, expires, "\ud800"),
        ("\ud800", expires, signature),
        (PATH, "9" * 10_000, signature),
    ]
    for attempt in attempts:
        with pytest.raises(LinkRefused):
            signer.seconds_left(*attempt)


def test_all_refusals_are_the_same() -> None:
    """Whoever probes learns neither whether a file is there nor whether a link was once good."""
    clock = Clock()
    signer = LinkSigner(["key"], clock=clock)
    expires, signature = parts(signer.query(PATH, expires_in_seconds=1))
    clock.seconds += 10
    words = set()
    for attempt in ((PATH, expires, signature), (PATH, expires, "0" * 64), ("x", "soon", "")):
        with pytest.raises(LinkRefused) as raised:
            signer.seconds_left(*attempt)
        words.add(raised.value.message)
    assert len(words) == 1


def test_keys_can_be_replaced_while_old_links_live() -> None:
    clock = Clock()
    before, between = LinkSigner(["old"], clock=clock), LinkSigner(["new", "old"], clock=clock)
    after = LinkSigner(["new"], clock=clock)
    old_link = parts(before.query(PATH, expires_in_seconds=60))
    new_link = parts(between.query(PATH, expires_in_seconds=60))
    assert between.seconds_left(PATH, *old_link) == between.seconds_left(PATH, *new_link) == 60
    assert after.seconds_left(PATH, *new_link) == 60
    for signer, link in ((after, old_link), (before, new_link)):
        with pytest.raises(LinkRefused):
            signer.seconds_left(PATH, *link)


def test_links_cannot_be_made_without_a_key_or_for_ever() -> None:
    with pytest.raises(ValueError, match="at least one"):
        LinkSigner([])
    for seconds in (0, -1, LINK_SECONDS_MAX + 1):
        with pytest.raises(ValueError, match="a link lives"):
            LinkSigner(["key"]).query(PATH, expires_in_seconds=seconds)


@given(path=st.text(), expires=st.text(), signature=st.text())
def test_whatever_is_asked_is_refused_in_the_same_way(path: str, expires: str, signature: str) -> None:
    with pytest.raises(LinkRefused):
        LinkSigner(["key"]).seconds_left(path, expires, signature)
