"""Fetch attachments: from Discord's CDN or hosts the operator named, and from nowhere else."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bot.errors import AttachmentRefused

Fetch = Callable[[str, int], Awaitable[bytes]]
"""Fetch a URL of at most so many bytes; raises AttachmentRefused. Event loop."""

DISCORD_HOSTS = frozenset({"cdn.discordapp.com", "media.discordapp.net"})
TIMEOUT_S = 20.0
CHUNK_BYTES = 64 * 1024
_UNICAST = ipaddress.ip_network("2000::/3")  # the only IPv6 addresses that are given out; the rest is reserved or local
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class HttpFetcher:
    """The `Fetch` of the real bot.

    Discord's hosts: https, port 443, public addresses. Hosts in `extra_hosts` ("host" or "host:port"): http
    too, any port and private addresses. No host's redirects are followed.
    """

    def __init__(
        self,
        extra_hosts: Iterable[str] = (),
        *,
        timeout_s: float = TIMEOUT_S,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._extra = frozenset(host.lower() for host in extra_hosts)
        self._timeout_s = timeout_s
        self._resolver = resolver

    async def __call__(self, url: str, max_bytes: int) -> bytes:
        """Fetch `url`, at most `max_bytes`; event loop. Raises AttachmentRefused for whatever is in the way."""
        # One parser for the check and the connection, so that both see the same host.
        try:
            target = URL(url)
            named = self._is_named(target)
        except ValueError:
            raise AttachmentRefused("That is not the address of a file.") from None
        if not named:
            _require_discord(target)
        resolver = self._resolver() if named else _PublicOnly(self._resolver())
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            ) as session:
                return await _get(session, target, max_bytes)
        except TimeoutError:
            raise AttachmentRefused("The file did not arrive in time; try again.") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise AttachmentRefused("The file could not be fetched; send it again.") from None

    def _is_named(self, target: URL) -> bool:
        host = (target.host or "").lower()
        return target.scheme in ("http", "https") and not self._extra.isdisjoint({host, f"{host}:{target.port}"})


def _require_discord(target: URL) -> None:
    host = (target.host or "").lower()
    if host not in DISCORD_HOSTS:
        raise AttachmentRefused("Files are read from Discord's own servers only; attach the picture to the command.")
    if target.scheme != "https" or target.port != 443 or target.user or target.password:
        raise AttachmentRefused("Files are fetched over https only; attach the picture to the command.")


async def _get(session: aiohttp.ClientSession, target: URL, max_bytes: int) -> bytes:
    too_large = AttachmentRefused(f"That file is larger than {max_bytes / (1 << 20):.3g} MiB; send a smaller one.")
    async with session.get(target, allow_redirects=False) as response:
        if 300 <= response.status < 400:
            raise AttachmentRefused(
                "That file's server sends the bot elsewhere, where it does not go; attach the file."
            )
        if response.status in (403, 404, 410):
            raise AttachmentRefused("The file is no longer there; send it again.")
        if response.status != 200:
            raise AttachmentRefused(f"The file's server answered {response.status}; try again in a moment.")
        if response.content_length is not None and response.content_length > max_bytes:
            raise too_large
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            data += chunk
            if len(data) > max_bytes:
                raise too_large
        return bytes(data)


def is_public(address: str) -> bool:
    """Whether an IP address is one on the open internet."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.sixtofour is not None or ip.teredo is not None or ip not in _UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


class _PublicOnly(AbstractResolver):
    """Resolves names to public addresses only; what it gives is what is connected to, so nothing can change between."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = [entry for entry in await self._inner.resolve(host, port, family) if is_public(entry["host"])]
        if not found:
            raise OSError(f"{host} has no public address")
        return found

    async def close(self) -> None:
        await self._inner.close()
