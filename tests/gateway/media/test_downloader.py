"""What the guard lets through is fetched, from real servers on the loopback that the book is told to allow."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.media.addresses import AddressBook
from gateway.media.downloader import Downloader
from gateway.media.errors import DownloadFailed, MediaError, PictureTooLarge, PictureUnreadable
from gateway.refusals import Overloaded
from tests.gateway.media.picture_server import PICTURE, Names, PictureServer, ok, redirect
from tests.running import listen

BYTES_MAX = 64 * 1024
LOOPBACK = {"pictures.test": [["127.0.0.1"]]}
SHORT_SECONDS = 0.2
NOBODY_IS_TRUSTED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
Open = Callable[..., Downloader]


@pytest.fixture
async def server() -> AsyncIterator[PictureServer]:
    server = PictureServer()
    async with server.serve():
        yield server


@pytest.fixture
async def open_downloader(server: PictureServer) -> AsyncIterator[Open]:
    """Downloaders that may fetch from `server`."""
    opened: list[Downloader] = []

    def open_one(names: Any = LOOPBACK, ports: tuple[int, ...] = (), **options: Any) -> Downloader:
        book = AddressBook(
            allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[server.port, *ports], resolve=Names(names)
        )
        defaults: dict[str, Any] = {"bytes_max": BYTES_MAX, "ssl_context": NOBODY_IS_TRUSTED}
        opened.append(Downloader(book, **(defaults | options)))
        return opened[-1]

    yield open_one
    for downloader in opened:
        await downloader.aclose()


def url(server: PictureServer, path: str = "/picture.png", *, scheme: str = "http") -> str:
    return f"{scheme}://pictures.test:{server.port}{path}"


async def test_a_picture_is_fetched_with_an_honest_request(server: PictureServer, open_downloader: Open) -> None:
    server.replies["/a%20b.png?size=1"] = ok(PICTURE)
    assert await open_downloader().fetch(url(server, "/a b.png?size=1#fragment")) == PICTURE
    lines = server.requests[0].lower().splitlines()
    assert lines[0] == "get /a%20b.png?size=1 http/1.1"
    assert f"host: pictures.test:{server.port}" in lines
    assert "accept-encoding: identity" in lines


async def test_every_picture_is_fetched_over_a_connection_of_its_own(
    server: PictureServer, open_downloader: Open
) -> None:
    downloader = open_downloader()
    for _ in range(3):
        assert await downloader.fetch(url(server)) == PICTURE
    assert server.connections == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(server: PictureServer, open_downloader: Open, status: int) -> None:
    server.replies["/old"] = redirect("/picture.png", status=status)
    assert await open_downloader().fetch(url(server, "/old")) == PICTURE


async def test_three_redirects_are_followed_in_every_way_they_are_written(
    server: PictureServer, open_downloader: Open
) -> None:
    server.replies["/a/1"] = redirect("2?x=ü", header="LOCATION")
    server.replies["/a/2?x=%C3%BC"] = redirect(f"//pictures.test:{server.port}/3", header="Location")
    server.replies["/3"] = redirect(url(server))
    assert await open_downloader().fetch(url(server, "/a/1")) == PICTURE


async def test_a_fourth_redirect_is_not_followed(server: PictureServer, open_downloader: Open) -> None:
    server.replies |= {f"/{n}": redirect(f"/{n + 1}") for n in range(4)} | {"/4": ok(PICTURE)}
    with pytest.raises(DownloadFailed, match="redirects more than 3 times"):
        await open_downloader().fetch(url(server, "/0"))
    assert server.connections == 4


@pytest.mark.parametrize("location", ["", "http://", "http://[", "http://[]/", "//:80/", "http://pictures.test:x/"])
async def test_redirects_to_nowhere_are_refused(server: PictureServer, open_downloader: Open, location: str) -> None:
    server.replies["/old"] = redirect(location)
    with pytest.raises((DownloadFailed, PictureUnreadable)):
        await open_downloader().fetch(url(server, "/old"))


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 410, 500, 503])
async def test_other_answers_are_told(server: PictureServer, open_downloader: Open, status: int) -> None:
    server.replies["/x"] = f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n".encode()
    with pytest.raises(DownloadFailed, match=f"answered with status {status}"):
        await open_downloader().fetch(url(server, "/x"))


@pytest.mark.parametrize(
    "reply",
    [
        ok(b"x" * (BYTES_MAX + 1)),
        ok(b"x" * 10, announced_bytes=10**12),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (BYTES_MAX + 1),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n",
    ],
    ids=["announced", "announced only", "until the end", "in chunks"],
)
async def test_too_much_is_refused_however_it_is_announced(
    server: PictureServer, open_downloader: Open, reply: bytes
) -> None:
    head, _, body = reply.partition(b"\r\n\r\n")

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"\r\n\r\n")
        for _ in range(1_000):  # it would not end by itself within the bound
            writer.write(body)
            await writer.drain()

    server.replies["/large"] = reply if b"chunked" not in head else send
    with pytest.raises(PictureTooLarge):
        await open_downloader().fetch(url(server, "/large"))


async def test_exactly_the_limit_is_accepted(server: PictureServer, open_downloader: Open) -> None:
    server.replies["/full"] = ok(b"x" * BYTES_MAX)
    assert len(await open_downloader().fetch(url(server, "/full"))) == BYTES_MAX


async def test_what_is_packed_is_not_unpacked(server: PictureServer, open_downloader: Open) -> None:
    server.replies["/zip"] = ok(b"\x1f\x8b packed", "content-encoding: gzip")
    assert await open_downloader().fetch(url(server, "/zip")) == b"\x1f\x8b packed"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200",
        ok(PICTURE, announced_bytes=len(PICTURE) + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=["nothing", "no HTTP", "half a line", "cut off", "negative", "enormous number", "two lengths", "huge header",
         "bad chunk", "bad status", "other protocol"],
)  # fmt: skip
async def test_broken_servers_are_told_from_ours(server: PictureServer, open_downloader: Open, reply: bytes) -> None:
    server.replies["/x"] = reply
    with pytest.raises(DownloadFailed):
        await open_downloader().fetch(url(server, "/x"))


async def test_nobody_listening_is_told(server: PictureServer, open_downloader: Open) -> None:
    with listen() as silent:
        port = silent.getsockname()[1]
    with pytest.raises(DownloadFailed, match="connection to the picture's server failed"):
        await open_downloader(ports=(port,)).fetch(f"http://pictures.test:{port}/")


async def test_servers_that_never_answer_are_left(server: PictureServer, open_downloader: Open) -> None:
    async def say_nothing(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    server.replies["/silent"] = say_nothing
    with pytest.raises(DownloadFailed, match="not delivered within"):
        await open_downloader(total_timeout_seconds=SHORT_SECONDS).fetch(url(server, "/silent"))


async def test_servers_that_trickle_are_left(server: PictureServer, open_downloader: Open) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(SHORT_SECONDS / 20)

    server.replies["/slow"] = trickle
    with pytest.raises(DownloadFailed, match="not delivered within"):
        await open_downloader(total_timeout_seconds=SHORT_SECONDS).fetch(url(server, "/slow"))


async def test_another_address_of_the_same_name_is_tried(server: PictureServer, open_downloader: Open) -> None:
    names = {"pictures.test": [["127.0.0.3", "127.0.0.1"]]}  # nobody listens on the first
    assert await open_downloader(names).fetch(url(server)) == PICTURE


async def test_more_than_may_be_fetched_at_once_is_our_failing(server: PictureServer, open_downloader: Open) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await released.wait()
        writer.write(ok(PICTURE))

    server.replies["/slow"] = wait
    downloader = open_downloader(connections_max=1, connect_timeout_seconds=SHORT_SECONDS)
    first = asyncio.create_task(downloader.fetch(url(server, "/slow")))
    await arrived.wait()
    with pytest.raises(Overloaded):
        await downloader.fetch(url(server))
    released.set()
    assert await first == PICTURE


async def test_failures_use_up_no_connections(server: PictureServer, open_downloader: Open) -> None:
    server.replies |= {
        "/large": ok(b"x" * 2 * BYTES_MAX),
        "/cut": ok(b"", announced_bytes=5),
        "/in": redirect("file:/"),
    }
    downloader = open_downloader(
        LOOPBACK | {"private.test": [["10.0.0.1"]]}, connections_max=1, total_timeout_seconds=30
    )
    for path in ("/large", "/cut", "/missing", "/in"):
        with pytest.raises(MediaError):
            await downloader.fetch(url(server, path))
    abandoned = asyncio.create_task(downloader.fetch(url(server)))
    await asyncio.sleep(0)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    assert await downloader.fetch(url(server)) == PICTURE


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[PictureServer, Path]]:
    """A server whose certificate is for pictures.test."""
    file = certificate(tmp_path, "pictures.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    server = PictureServer()
    async with server.serve(tls=context):
        yield server, file


async def test_tls_verifies_the_name_though_an_address_is_connected_to(
    secure: tuple[PictureServer, Path], open_downloader: Open
) -> None:
    server, file = secure
    names = LOOPBACK | {"other.test": [["127.0.0.1"]]}
    downloader = open_downloader(names, (server.port,), ssl_context=ssl.create_default_context(cafile=str(file)))
    assert await downloader.fetch(url(server, scheme="https")) == PICTURE
    for host in ("other.test", "127.0.0.1"):
        with pytest.raises(DownloadFailed, match="connection to the picture's server failed"):
            await downloader.fetch(f"https://{host}:{server.port}/picture.png")
    assert len(server.requests) == 1


async def test_certificates_that_nobody_vouches_for_are_not_trusted(
    secure: tuple[PictureServer, Path], open_downloader: Open
) -> None:
    server, _file = secure
    with pytest.raises(DownloadFailed):
        await open_downloader(ports=(server.port,), ssl_context=None).fetch(url(server, scheme="https"))
    assert server.requests == []


async def test_plain_http_spoken_to_a_tls_port_is_refused(
    secure: tuple[PictureServer, Path], open_downloader: Open
) -> None:
    with pytest.raises(DownloadFailed):
        await open_downloader(ports=(secure[0].port,)).fetch(url(secure[0]))


async def test_a_handshake_that_never_ends_is_given_up_and_its_connection_closed(open_downloader: Open) -> None:
    left = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # the client's greeting, which gets no answer, and then its leaving
        left.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        downloader = open_downloader(ports=(port,), total_timeout_seconds=SHORT_SECONDS)
        with pytest.raises(DownloadFailed, match="not delivered within"):
            await downloader.fetch(f"https://pictures.test:{port}/")
        await asyncio.wait_for(left.wait(), 10)
