"""No spelling of an address leads from a customer's URL into this machine or its network.

A listener on the loopback waits for each of them, on a port that may be used, and must never be reached.
"""

import ssl
import threading
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import pytest

from gateway.media.addresses import AddressBook, is_public
from gateway.media.downloader import Downloader
from gateway.media.errors import AddressBlocked, DownloadFailed, MediaError, PictureUnreadable
from tests.gateway.media.picture_server import PICTURE, Names, PictureServer, redirect

NOBODY_IS_TRUSTED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PUBLIC = "93.184.215.14"
INSIDE = {
    "localhost": [["127.0.0.1", "::1"]],
    "inside.test": [["127.0.0.1"]],
    "inside6.test": [["::1"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "metadata.test": [["169.254.169.254"]],
    "mixed.test": [[PUBLIC, "127.0.0.1"]],
    "mixed6.test": [["2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::1"]],
    "crowd.test": [[PUBLIC] * 31 + ["10.0.0.1"]],
    "public.test": [[PUBLIC]],
}
HOSTS = [
    "127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "localhost.", "inside.test", "inside6.test", "mapped.test",
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "017700000001",
    "0", "0.0.0.0", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]",
    "[2001:db8::1]", "[3fff::1]", "[5f00::1]", "169.254.169.254", "metadata.test", "10.0.0.1", "172.16.0.1",
    "192.168.0.1", "100.64.0.1", "198.18.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "mixed.test", "mixed6.test", "crowd.test", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1",
]  # fmt: skip
URLS: list[tuple[str, type[MediaError]]] = [
    ("http://public.test@127.0.0.1:{port}/", AddressBlocked),
    ("http://user:secret@public.test:{port}/", AddressBlocked),
    ("http://public.test\\@127.0.0.1:{port}/", AddressBlocked),
    ("http://127.0.0.1%2f@public.test:{port}/", AddressBlocked),
    ("http://127.0.0.1:{port}#@public.test/", AddressBlocked),
    ("http://127.0.0.1:{port}?@public.test/", AddressBlocked),
    ("HTTP://127.0.0.1:{port}/", AddressBlocked),
    ("https://127.0.0.1:{port}/", AddressBlocked),
    ("http://public.test:22/", AddressBlocked),
    ("http://public.test:6379/", AddressBlocked),
    ("http://public.test:0/", PictureUnreadable),
    ("http://0177.0.0.1:{port}/", PictureUnreadable),
    ("http://public.test:99999/", AddressBlocked),
    ("file:///etc/passwd", AddressBlocked),
    ("file://127.0.0.1:{port}/etc/passwd", AddressBlocked),
    ("gopher://127.0.0.1:{port}/_GET%20/", AddressBlocked),
    ("ftp://127.0.0.1:{port}/a.png", AddressBlocked),
    ("unix:///var/run/docker.sock", AddressBlocked),
    ("http+unix://%2Fvar%2Frun%2Fdocker.sock/info", AddressBlocked),
    ("ws://127.0.0.1:{port}/", AddressBlocked),
    ("localhost:{port}/a.png", AddressBlocked),
    ("http:127.0.0.1:{port}/", PictureUnreadable),
    ("http:///127.0.0.1:{port}/", PictureUnreadable),
    ("http://:{port}/", PictureUnreadable),
    ("http://①②⑦.⓪.⓪.①:{port}/", PictureUnreadable),
    ("http://ｌｏｃａｌｈｏｓｔ:{port}/", PictureUnreadable),
    ("http://127.0.0.1:{port}:80/", PictureUnreadable),
    ("http://127.0.0.1:{port}/\r\nx-injected: 1", PictureUnreadable),
    ("http://127.0.0.1\t:{port}/", PictureUnreadable),
    ("http://\ud800:{port}/", PictureUnreadable),
    ("http://public.test/" + "a" * 5_000, PictureUnreadable),
    ("http://127.0.0.1 :{port}/", DownloadFailed),
    ("http://127.0.0.1%00.public.test:{port}/", DownloadFailed),
    ("http://[fe80::1%25lo]:{port}/", DownloadFailed),
    ("http://" + "a" * 64 + ".test:{port}/", DownloadFailed),
    ("http://unknown.test:{port}/", DownloadFailed),
]  # fmt: skip


@pytest.fixture
async def listener() -> AsyncIterator[PictureServer]:
    """Would give out a picture, if somebody came."""
    server = PictureServer()
    async with server.serve("127.0.0.1"):
        yield server


@pytest.fixture
async def downloader(listener: PictureServer) -> AsyncIterator[Downloader]:
    book = AddressBook(allow_ports=[listener.port], resolve=Names(INSIDE))
    downloader = Downloader(book, bytes_max=1024, ssl_context=NOBODY_IS_TRUSTED)
    yield downloader
    await downloader.aclose()


@pytest.mark.parametrize("host", HOSTS)
async def test_no_spelling_of_a_private_address_is_fetched(
    listener: PictureServer, downloader: Downloader, host: str
) -> None:
    with pytest.raises(AddressBlocked, match="private or reserved"):
        await downloader.fetch(f"http://{host}:{listener.port}/picture.png")
    assert listener.connections == 0


@pytest.mark.parametrize(("url", "refusal"), URLS)
async def test_no_trick_of_writing_reaches_the_listener(
    listener: PictureServer, downloader: Downloader, url: str, refusal: type[MediaError]
) -> None:
    with pytest.raises(refusal):
        await downloader.fetch(url.replace("{port}", str(listener.port)))
    assert listener.connections == 0


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "//localhost:{port}/", "http://[::1]:{port}/",
                                    "http://2130706433:{port}/", "http://metadata.test/latest/meta-data/"])  # fmt: skip
async def test_redirects_into_the_network_are_not_followed(listener: PictureServer, target: str) -> None:
    outside = PictureServer()
    names = Names(INSIDE | {"outside.test": [["127.0.0.2"]]})
    async with outside.serve("127.0.0.2"):
        outside.replies["/"] = redirect(target.replace("{port}", str(listener.port)))
        book = AddressBook(
            allow_networks=[ip_network("127.0.0.2/32")], allow_ports=[outside.port, listener.port], resolve=names
        )
        downloader = Downloader(book, bytes_max=1024, ssl_context=NOBODY_IS_TRUSTED)
        with pytest.raises(AddressBlocked):
            await downloader.fetch(f"http://outside.test:{outside.port}/")
        await downloader.aclose()
    assert (outside.connections, listener.connections) == (1, 0)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://outside.test/", "http://a:b@outside.test/"])
async def test_redirects_to_other_schemes_and_with_passwords_are_not_followed(target: str) -> None:
    outside = PictureServer()
    async with outside.serve("127.0.0.2"):
        outside.replies["/"] = redirect(target)
        book = AddressBook(
            allow_networks=[ip_network("127.0.0.2/32")],
            allow_ports=[outside.port],
            resolve=Names({"outside.test": [["127.0.0.2"]]}),
        )
        downloader = Downloader(book, bytes_max=1024, ssl_context=NOBODY_IS_TRUSTED)
        with pytest.raises(AddressBlocked):
            await downloader.fetch(f"http://outside.test:{outside.port}/")
        await downloader.aclose()


async def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    """The checked answer is the one that is used; each further connection is checked anew."""
    allowed, forbidden = PictureServer(), PictureServer()
    async with allowed.serve("127.0.0.2"), forbidden.serve("127.0.0.1"):
        names = Names({"rebinding.test": [["127.0.0.2"], ["127.0.0.1"]]})
        book = AddressBook(
            allow_networks=[ip_network("127.0.0.2/32")], allow_ports=[allowed.port, forbidden.port], resolve=names
        )
        downloader = Downloader(book, bytes_max=1024, ssl_context=NOBODY_IS_TRUSTED)
        assert await downloader.fetch(f"http://rebinding.test:{allowed.port}/picture.png") == PICTURE
        assert names.asked == ["rebinding.test"]
        with pytest.raises(AddressBlocked):
            await downloader.fetch(f"http://rebinding.test:{forbidden.port}/picture.png")
        await downloader.aclose()
    assert forbidden.connections == 0


async def test_proxies_of_the_environment_are_not_used(
    listener: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    outside = PictureServer()
    async with outside.serve("127.0.0.2"):
        book = AddressBook(allow_networks=[ip_network("127.0.0.2/32")], allow_ports=[outside.port])
        downloader = Downloader(book, bytes_max=1024, ssl_context=NOBODY_IS_TRUSTED)
        assert await downloader.fetch(f"http://127.0.0.2:{outside.port}/picture.png") == PICTURE
        await downloader.aclose()
    assert listener.connections == 0


async def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    released = threading.Event()

    def hang(_host: str, _port: int) -> list[str]:
        released.wait(30)
        return [PUBLIC]

    book = AddressBook(resolve=hang, resolve_timeout_seconds=0.05)
    try:
        with pytest.raises(DownloadFailed, match="could not be resolved in time"):
            await book.look_up("slow.test", 443)
    finally:
        released.set()
        book.close()


async def test_a_name_without_addresses_is_refused() -> None:
    book = AddressBook(resolve=lambda _host, _port: [])
    with pytest.raises(DownloadFailed, match="has no address"):
        await book.look_up("empty.test", 443)
    book.close()


async def test_the_systems_resolver_knows_this_machine_and_is_not_believed() -> None:
    book = AddressBook()
    with pytest.raises(AddressBlocked):
        await book.look_up("localhost", 443)
    book.close()


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"])
def test_the_open_internet_is_open(address: str) -> None:
    assert is_public(ip_address(address))


def test_an_allowed_network_is_allowed_in_both_spellings() -> None:
    book = AddressBook(allow_networks=[ip_network("10.1.0.0/16")])
    assert book.may_connect(ip_address("10.1.2.3"))
    assert book.may_connect(ip_address("::ffff:10.1.2.3"))
    assert not book.may_connect(ip_address("10.2.0.1"))
    book.close()
