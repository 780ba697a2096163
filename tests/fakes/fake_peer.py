"""Somebody's server that this program calls: reads whole requests, and answers what a test has written, well or badly. Counts its connections."""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def says(raw: bytes, *, closes: bool = False) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        if closes:
            writer.close()

    return answer


def repeats(first: bytes, then: bytes, pause: float = 0) -> Answer:
    """Until the other side closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing() and not reader.at_eof():
            writer.write(then)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


class FakePeer:
    """Listens while the block lasts. `requests` are heads and bodies; `server_names` are what TLS clients asked for."""

    def __init__(self, answer: Answer | bytes = OK, *, tls: ssl.SSLContext | None = None, greeting: bytes = b"") -> None:
        self.answer = says(answer) if isinstance(answer, bytes) else answer
        self.connections = self.ended = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.server_names: list[str | None] = []
        self._changed = asyncio.Event()
        self._tls, self._greeting = tls, greeting
        if tls:
            tls.sni_callback = lambda _socket, name, _context: self.server_names.append(name)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.until(lambda: self.ended == self.connections)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(self._greeting)
        try:
            async for request in _requests(reader):
                self.requests.append(request)
                self._changed.set()
                await self.answer(reader, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.ended += 1
            self._changed.set()


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        yield head, await reader.readexactly(int(lengths[0]) if lengths else 0)


class FakeAuthority:
    """Issues certificates, and gives out contexts for both sides."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fake Authority")])
        self._certificate = self._sign("authority", self._name, self._key.public_key(), [x509.BasicConstraints(ca=True, path_length=None)])

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.pem)

    def server(self, name: str) -> ssl.SSLContext:
        """Of a server that is called so."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, x509.Name([]), key.public_key(), [x509.SubjectAlternativeName([x509.DNSName(name)])])
        file = self._folder / f"{name}.pem"
        key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(key_pem + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(self, name: str, subject: x509.Name, key: ec.EllipticCurvePublicKey, extensions: list[x509.ExtensionType]) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number(), now - dt.timedelta(hours=1), now + dt.timedelta(days=1))
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=name == "authority" or not list(subject))
        return builder.sign(self._key, hashes.SHA256())
