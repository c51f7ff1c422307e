"""Attachments come from Discord's hosts or named ones, whole and bounded, or not at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from bot.errors import AttachmentRefused
from bot.files.fetch import HttpFetcher, is_public

BODY = bytes(range(256)) * 40


class Server:
    """A small file server on loopback that counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        kind = request.path.strip("/")
        if kind == "redirect":
            return web.Response(status=302, headers={"Location": "/file"})
        if kind == "stream":
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            for _ in range(1000):
                await response.write(bytes(1000))
            return response
        if kind == "slow":
            await asyncio.sleep(30)
        if kind == "cut":
            response = web.StreamResponse(headers={"Content-Length": "5000"})
            await response.prepare(request)
            await response.write(b"short")
            assert request.transport is not None
            request.transport.close()
            return response
        if kind == "gzip":
            return web.Response(body=BODY, headers={"Content-Encoding": "gzip"})
        return web.Response(body=BODY) if kind == "file" else web.Response(status=int(kind))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/{path}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


class Points(AbstractResolver):
    """Points every name at one address."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=self.address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        return None


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:PORT"], ids=["host", "host and port"])
async def test_fetch_from_a_named_host_gives_the_bytes(server: Server, entry: str) -> None:
    fetch = HttpFetcher([entry.replace("PORT", str(server.port))])
    assert await fetch(server.url("file"), len(BODY)) == BODY


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("redirect", "sends the bot elsewhere"), ("404", "no longer there"), ("403", "no longer there"),
     ("500", "answered 500"), ("cut", "could not be fetched")],
)  # fmt: skip
async def test_fetch_of_anything_but_the_file_is_refused(server: Server, path: str, sentence: str) -> None:
    with pytest.raises(AttachmentRefused, match=sentence):
        await HttpFetcher(["127.0.0.1"])(server.url(path), 10_000)
    assert server.asked == [f"/{path}"]


@pytest.mark.parametrize("path", ["file", "stream"], ids=["told", "untold"])
async def test_fetch_of_too_many_bytes_is_refused(server: Server, path: str) -> None:
    with pytest.raises(AttachmentRefused, match="larger than"):
        await HttpFetcher(["127.0.0.1"])(server.url(path), len(BODY) - 1)


async def test_fetch_unpacks_nothing(server: Server) -> None:
    assert await HttpFetcher(["127.0.0.1"])(server.url("gzip"), len(BODY)) == BODY


async def test_fetch_that_takes_too_long_is_refused(server: Server) -> None:
    with pytest.raises(AttachmentRefused, match="in time"):
        await HttpFetcher(["127.0.0.1"], timeout_s=0.2)(server.url("slow"), 1000)


ELSEWHERE = {
    "other host": "https://example.com/a.png",
    "look-alike": "https://cdn.discordapp.com.example.com/a.png",
    "user part": "https://cdn.discordapp.com@example.com/a.png",
    "with a user": "https://me:secret@cdn.discordapp.com/a.png",
    "http": "http://cdn.discordapp.com/a.png",
    "port": "https://cdn.discordapp.com:8443/a.png",
    "file": "file:///etc/passwd",
    "address": "https://127.0.0.1/a.png",
    "number": "https://2130706433/a.png",
    "six": "https://[::1]/a.png",
    "metadata": "http://169.254.169.254/latest/meta-data",
    "backslash": "https://example.com\\@cdn.discordapp.com/a.png",
    "nothing": "",
    "words": "not an address",
    "bad port": "https://cdn.discordapp.com:99999/a.png",
    "open bracket": "https://[cdn.discordapp.com/a.png",
}


@pytest.mark.parametrize("url", ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_fetch_from_elsewhere_is_refused_unasked(url: str) -> None:
    asked: list[str] = []

    def resolver() -> AbstractResolver:
        asked.append(url)
        return Points("127.0.0.1")

    with pytest.raises(AttachmentRefused):
        await HttpFetcher(["127.0.0.5"], resolver=resolver)(url, 1000)
    assert asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254"])
async def test_fetch_from_discord_behind_a_private_address_is_refused(address: str) -> None:
    fetch = HttpFetcher(resolver=lambda: Points(address))
    with pytest.raises(AttachmentRefused, match="could not be fetched"):
        await fetch("https://cdn.discordapp.com/attachments/1/2/a.png", 1000)


@pytest.mark.parametrize(
    ("address", "public"),
    [("162.159.130.233", True), ("2606:4700::1", True), ("64:ff9b::a29f:82e9", True), ("127.0.0.1", False),
     ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
     ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False),
     ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
     ("2002:7f00:1::", False), ("ff02::1", False)],
)  # fmt: skip
def test_is_public_knows_the_open_internet(address: str, public: bool) -> None:
    assert is_public(address) is public
