"""Fault 43: an attachment behind a private address, a redirect or another host is refused, and nobody there is asked."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from bot.errors import AttachmentRefused
from bot.files.fetch import HttpFetcher, is_public
from tests.unit.files.test_fetch import Points, Server, server  # noqa: F401  # a fixture

DISCORD = "https://cdn.discordapp.com/attachments/1/2/a.png"

NOT_DISCORD = {
    "decimal": "https://2130706433/a.png", "octal": "https://0177.0.0.1/a.png", "hexadecimal": "https://0x7f000001/a.png",
    "short": "https://127.1/a.png", "zero": "https://0/a.png", "six": "https://[::1]/a.png",
    "mapped": "https://[::ffff:127.0.0.1]/a.png", "zone": "https://[fe80::1%25eth0]/a.png", "localhost": "https://localhost/a.png",
    "metadata": "https://169.254.169.254/latest/meta-data", "user": "https://cdn.discordapp.com@127.0.0.1/a.png",
    "user and port": "https://cdn.discordapp.com:443@127.0.0.1/a.png", "fragment": "https://127.0.0.1#@cdn.discordapp.com/a.png",
    "query": "https://127.0.0.1?@cdn.discordapp.com/a.png", "backslash": "https://127.0.0.1\\.cdn.discordapp.com/a.png",
    "subdomain": "https://x.cdn.discordapp.com/a.png", "suffix": "https://cdn.discordapp.com.evil.example/a.png",
    "prefix": "https://evilcdn.discordapp.com/a.png", "dot at the end": "https://cdn.discordapp.com./a.png",
    "escaped dot": "https://cdn%2ediscordapp%2ecom.evil.example/a.png", "tab": "https://cdn.discordapp.com\t.evil.example/a.png",
    "newline": "https://cdn.discordapp.com\n.evil.example/a.png", "full width": "https://ｃdn.discordapp.com.evil.example/a.png",
    "cyrillic": "https://сdn.discordapp.com/a.png", "ftp": "ftp://cdn.discordapp.com/a.png", "file": "file:///etc/passwd",
    "data": "data:image/png;base64,AAAA", "gopher": "gopher://127.0.0.1:6379/_x", "scheme of http": "http://cdn.discordapp.com/a.png",
    "other port": "https://cdn.discordapp.com:22/a.png", "no scheme": "//cdn.discordapp.com/a.png", "words": "cdn.discordapp.com/a.png",
    "long": "https://" + "a" * 100_000 + "/a.png", "nul": "https://cdn.discordapp.com\0/a.png",
}  # fmt: skip


@pytest.mark.fault(43)
@pytest.mark.parametrize("url", NOT_DISCORD.values(), ids=NOT_DISCORD.keys())
async def test_fault_43_address_that_is_not_discords_refused_unasked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", lambda *_: asked.append(url))

    def resolver() -> AbstractResolver:
        asked.append(url)
        return Points("127.0.0.1")

    with pytest.raises(AttachmentRefused) as caught:
        await HttpFetcher(resolver=resolver)(url, 1000)
    assert asked == []
    assert len(str(caught.value)) < 200


class Rebinding(AbstractResolver):
    """Answers with another list each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        kind = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            ResolveResult(hostname=host, host=at, port=port, family=kind[":" in at], proto=0, flags=0) for at in found
        ]

    async def close(self) -> None:
        return None


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that aiohttp connects to; none of them answers."""
    import aiohttp.connector

    asked: list[str] = []

    async def start_connection(addr_infos: list[tuple], **_: object) -> None:
        asked.extend(info[4][0] for info in addr_infos)
        raise OSError("nobody is there")

    monkeypatch.setattr(aiohttp.connector.aiohappyeyeballs, "start_connection", start_connection)
    return asked


@pytest.mark.fault(43)
async def test_fault_43_private_address_among_public_ones_is_never_connected_to(connected: list[str]) -> None:
    resolver = Rebinding(["127.0.0.1", "162.159.130.233", "::1", "10.0.0.1"])
    with pytest.raises(AttachmentRefused, match="could not be fetched"):
        await HttpFetcher(resolver=lambda: resolver)(DISCORD, 1000)
    assert set(connected) == {"162.159.130.233"}


@pytest.mark.fault(43)
async def test_fault_43_name_that_points_elsewhere_a_moment_later_is_not_asked_again(connected: list[str]) -> None:
    resolver = Rebinding(["162.159.130.233"], ["127.0.0.1"])
    with pytest.raises(AttachmentRefused, match="could not be fetched"):
        await HttpFetcher(resolver=lambda: resolver)(DISCORD, 1000)
    assert set(connected) == {"162.159.130.233"}
    assert resolver.asked == 1


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1", "no address", "0177.0.0.1"],
)
async def test_fault_43_discord_behind_a_private_address_refused(connected: list[str], address: str) -> None:
    with pytest.raises(AttachmentRefused, match="could not be fetched"):
        await HttpFetcher(resolver=lambda: Rebinding([address]))(DISCORD, 1000)
    assert connected == []


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    "address",
    ["::127.0.0.1", "::2", "fec0::1", "64:ff9b:1::7f00:1", "64:ff9b::a00:1", "2001:db8::1", "2002:a00:1::", "2001:0:7f00:1::",
     "100::1", "5f00::1", "fc00::1", "ff02::1", "192.0.0.1", "198.18.0.1", "203.0.113.1", "240.0.0.1", "100.64.0.1"],
)  # fmt: skip
def test_fault_43_reserved_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.fault(43)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
async def test_fault_43_redirect_refused_and_not_followed(status: int) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/secret"})

    app = web.Application()
    app.router.add_get("/{path}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        with pytest.raises(AttachmentRefused, match="sends the bot elsewhere"):
            await HttpFetcher(["127.0.0.1"])(f"http://127.0.0.1:{port}/file", 1000)
    finally:
        await runner.cleanup()
    assert asked == ["/file"]


@pytest.mark.fault(43)
async def test_fault_43_host_that_is_not_named_refused_beside_one_that_is(server: Server) -> None:  # noqa: F811
    fetch = HttpFetcher([f"127.0.0.1:{server.port}"])
    assert await fetch(server.url("file"), 1 << 20)
    for other in (
        f"http://localhost:{server.port}/file",
        f"http://127.0.0.1:{server.port + 1}/file",
        f"http://127.1:{server.port}/file",
    ):
        with pytest.raises(AttachmentRefused):
            await fetch(other, 1 << 20)
    assert server.asked == ["/file"]
