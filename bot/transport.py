"""Every REST call to Discord passes here: time-outs, repeats, and when to stop calling.

discord.py repeats a 500, 502, 504 and a 429 that has `Via`. It has no time-out short of five minutes, gives up at once on
a 503, a broken connection or a 429 of the edge (without `Via`), and posts twice where a follow-up was accepted behind a
502. This fills in the rest, at two public seams: aiohttp's trace of every exchange, and the calls themselves.

Only what may be repeated harmlessly is repeated here: GET, PUT, DELETE, and the first answer to an interaction, whose
repeat Discord refuses with 40060. Edits and messages with a nonce are repeated by who sends them (`bot/ui/messenger.py`),
a message without one by nobody. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar

import aiohttp
import discord
import yarl
from discord.http import HTTPClient, Route, json_or_text
from discord.webhook.async_ import AsyncWebhookAdapter, async_context

log = logging.getLogger(__name__)
T = TypeVar("T")

SILENT = (aiohttp.ClientError, TimeoutError, OSError)
"""What it looks like where no answer came: nobody knows whether the call was carried out."""

ALREADY_ACKNOWLEDGED = 40060
LOG_IN = "/users/@me"
LOOK_AGAIN_S = 1.0


WINDOW_S = 600.0
REFUSED_AT_MOST = 9_000
"""Of Discord's 10,000 in ten minutes: other programs may share the address."""


class NotSent(aiohttp.ClientError):
    """The call was held back; the text says why. Nothing was sent."""


class TokenRefused(NotSent):
    """Discord has refused the bot's token, so nothing is sent with it any more."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Waits in seconds. Tests shorten them."""

    connect_s: float = 10.0
    silence_s: float = 20.0
    """How long an answer may take once the request is out."""
    total_s: float = 180.0
    """An exchange as a whole: 25 MiB over a slow line included."""
    answer_s: float = 1.3
    """One try of an interaction's first answer, of whose 3 s there is room for two."""
    answer_within_s: float = 2.8
    again_s: tuple[float, ...] = (0.5, 1.0, 2.0)
    probe_s: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
    """Between looks whether Discord is back; the last one over and over."""

    def of_exchange(self) -> aiohttp.ClientTimeout:
        """The limits of an ordinary exchange."""
        return aiohttp.ClientTimeout(total=self.total_s, sock_connect=self.connect_s, sock_read=self.silence_s)


def jittered(delay_s: float) -> float:
    """Spread a delay over its upper half, so that what failed together does not come back together."""
    return delay_s * random.uniform(0.5, 1.0)


def retry_after(error: BaseException) -> float:
    """How long Discord or its edge asks to wait, in seconds; 0 where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return _seconds(headers.get("Retry-After"))


def passes(error: BaseException) -> bool:
    """Whether a failure is one of Discord's or the network's, which passes, and not a refusal, which stays."""
    if isinstance(error, discord.HTTPException):
        return error.status >= 500 or error.status == 429
    return isinstance(error, SILENT) and not isinstance(error, NotSent)


class RefusedCalls:
    """Counts answers of 401, 403 and 429 over a sliding window. Moments are monotonic seconds."""

    def __init__(self, *, at_most: int = REFUSED_AT_MOST, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._at: deque[float] = deque(maxlen=at_most)

    def note(self, now: float) -> None:
        """Count one."""
        self._at.append(now)

    def free_in(self, now: float) -> float:
        """How long no call may be made, in seconds; 0 while there is room."""
        while self._at and self._at[0] <= now - self._window_s:
            self._at.popleft()
        return self._at[0] + self._window_s - now if len(self._at) == self._at.maxlen else 0.0


class Transport:
    """Watches all exchanges and holds calls back while they would do harm.

    Calls stop for good once the token is refused; for as long as the edge says after a 429 of its own; near the limit
    of 10,000 refused calls in ten minutes, beyond which Discord bans the address; and while Discord is down: after
    `SUSPECT` failures in a row one probe decides, and further ones find out when it is back.
    """

    SUSPECT = 4

    def __init__(
        self, *, timing: Timing | None = None, refused_calls: RefusedCalls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`clock` gives monotonic seconds."""
        self.timing = timing or Timing()
        self._refused_calls = refused_calls or RefusedCalls()
        self._clock = clock
        self._held_until = 0.0
        self._failures = 0
        self._down = False
        self._up = asyncio.Event()
        self._up.set()
        self._prober: asyncio.Task[None] | None = None
        self._probing: ContextVar[bool] = ContextVar("probing", default=False)
        self._http: HTTPClient | None = None
        self.token_refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once Discord has refused the bot's token while running."""
        self.trace = aiohttp.TraceConfig()
        self.trace.on_request_start.append(self._started)
        self.trace.on_request_end.append(self._ended)
        self.trace.on_request_exception.append(self._broke)

    @property
    def down(self) -> bool:
        """Whether Discord is taken to be down."""
        return self._down

    def install(self, client: discord.Client) -> None:
        """Put this under a client that was made with `http_trace=transport.trace`, before it logs in.

        What the present task starts from here on has it under interactions and webhooks, too.
        """
        self._http = client.http
        inner = client.http.request

        async def request(route: Route, **options: Any) -> Any:
            call = lambda: inner(route, timeout=self.timing.of_exchange(), **options)  # noqa: E731
            return await (self.repeated(call) if route.method in ("GET", "PUT", "DELETE") else call())

        client.http.request = request  # type: ignore[method-assign]
        async_context.set(_Adapter(self))

    async def close(self) -> None:
        """End the probe."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    async def ready(self) -> None:
        """Wait while calls are held back. Never returns once the token is refused."""
        while True:
            if self.token_refused.done():
                await asyncio.get_running_loop().create_future()
            await self._up.wait()
            wait_s = self._held_for()
            if wait_s <= 0:
                return
            await asyncio.sleep(min(wait_s, LOOK_AGAIN_S))

    async def repeated(self, call: Callable[[], Awaitable[T]], delays_s: Sequence[float] | None = None) -> T:
        """Call, and again after what passes; for what may be repeated harmlessly. Raises the last error."""
        for delay_s in (*(self.timing.again_s if delays_s is None else delays_s), None):
            try:
                return await call()
            except (discord.HTTPException, *SILENT) as error:
                if delay_s is None or not passes(error):
                    raise
                log.info("Discord failed (%s), again soon", error or type(error).__name__)
                await asyncio.sleep(max(jittered(delay_s), retry_after(error)))
        raise AssertionError("unreachable")

    # what aiohttp tells of every exchange, those that discord.py repeats by itself included

    async def _started(self, session: Any, context: SimpleNamespace, params: aiohttp.TraceRequestStartParams) -> None:
        path = _path(params.url)
        if path is None or self._probing.get():
            return
        if self.token_refused.done() and not _has_its_own_token(path):
            raise TokenRefused("Discord has refused the bot's token, so nothing is sent with it any more.")
        if self._refused_calls.free_in(self._clock()) > 0:
            raise NotSent("Held back: Discord has refused nearly as many calls as it bears.")
        if path.startswith("/interactions/"):
            return  # somebody waits for it now, or never
        if self._held_for() > 0:
            raise NotSent("Held back for as long as Discord's edge asked.")
        if self._down:
            raise NotSent("Held back: Discord is down.")

    async def _ended(self, session: Any, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
        path = _path(params.url)
        if path is None:
            return
        status, headers = params.response.status, params.response.headers
        if status in (401, 403, 429) and headers.get("X-RateLimit-Scope") != "shared":
            self._refused_calls.note(self._clock())
        # A log-in that is refused says so by itself.
        if status == 401 and not _has_its_own_token(path) and path != LOG_IN and not self.token_refused.done():
            self.token_refused.set_result(None)
        if status == 429 and not headers.get("Via"):
            wait_s = max(1.0, _seconds(headers.get("Retry-After")))
            log.warning("Discord's edge limits this address; nothing is sent for %.1f s", wait_s)
            self._held_until = max(self._held_until, self._clock() + wait_s)
        elif status >= 500:
            self._failed()
        else:
            self._answered()

    async def _broke(self, session: Any, context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams) -> None:
        if _path(params.url) is not None and isinstance(params.exception, Exception):
            self._failed()

    def _held_for(self) -> float:
        now = self._clock()
        return max(self._held_until - now, self._refused_calls.free_in(now))

    def _answered(self) -> None:
        if self._down and not self._probing.get():
            return  # answers to interactions may pass while nothing else does
        self._failures = 0
        if self._down:
            log.warning("Discord is back")
            self._down = False
            self._up.set()

    def _failed(self) -> None:
        self._failures += 1
        if self._probing.get():
            if not self._down:
                log.warning("Discord is down: what is drawn waits until it is back")
            self._down = True
            self._up.clear()
        elif self._failures >= self.SUSPECT and (self._prober is None or self._prober.done()):
            # One address that fails is no reason to hold back the others; so first a look.
            self._prober = asyncio.create_task(self._probe(), name="is Discord there?")

    async def _probe(self) -> None:
        """Find out whether Discord is down, and if so, when it is back."""
        assert self._http is not None
        self._probing.set(True)
        delays_s = iter(self.timing.probe_s)
        delay_s = 0.0
        while self._failures:
            await asyncio.sleep(self._held_for())
            with suppress(discord.HTTPException, RuntimeError, *SILENT):  # a closed session is a RuntimeError
                await HTTPClient.request(self._http, Route("GET", "/gateway"), timeout=self.timing.of_exchange())
            if self._failures:
                delay_s = next(delays_s, delay_s)
                await asyncio.sleep(jittered(delay_s))


def _path(url: yarl.URL) -> str | None:
    """The part of an address after the API's own; None where it is not of the API (the gateway, the CDN)."""
    text = str(url)
    return text.removeprefix(Route.BASE) if text.startswith(Route.BASE + "/") else None


def _has_its_own_token(path: str) -> bool:
    return path.startswith(("/interactions/", "/webhooks/"))


def _seconds(value: str | None) -> float:
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0


class _Adapter(AsyncWebhookAdapter):
    """discord.py's calls with an interaction's token, under the transport."""

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    async def request(self, route: Any, session: Any, **options: Any) -> Any:
        timing = self._transport.timing
        if route.path.endswith("/callback"):
            return await self._answer(route, session, options)
        once = route.method == "POST"
        exchange = _Session(session, timing.of_exchange(), once=once)
        call = lambda: super(_Adapter, self).request(route, exchange, **options)  # type: ignore[arg-type]  # noqa: E731
        return await (self._transport.repeated(call) if route.method in ("GET", "DELETE") else call())

    async def _answer(self, route: Any, session: Any, options: dict[str, Any]) -> Any:
        """Send the first answer, and again within the 3 s where none came back; 40060 then says that it had arrived."""
        timing = self._transport.timing
        exchange: Any = _Session(session, aiohttp.ClientTimeout(total=timing.answer_s), once=True)
        loop = asyncio.get_running_loop()
        until = loop.time() + timing.answer_within_s
        repeated = False
        while True:
            try:
                return await super().request(route, exchange, **options)
            except (discord.HTTPException, *SILENT) as error:
                if repeated and isinstance(error, discord.HTTPException) and error.code == ALREADY_ACKNOWLEDGED:
                    return {"interaction": {"id": str(route.webhook_id), "type": 0}}
                if options.get("files") or not passes(error) or loop.time() + 0.1 >= until:
                    raise
                log.info("an answer to an interaction failed (%s), again", error or type(error).__name__)
                repeated = True
                await asyncio.sleep(max(0.1, retry_after(error)))


class _Session:
    """discord.py's session with a time-out; `once`: a server error ends the call, which it would repeat otherwise."""

    def __init__(self, session: aiohttp.ClientSession, timeout: aiohttp.ClientTimeout, *, once: bool) -> None:
        self._session = session
        self._timeout = timeout
        self._once = once

    def request(self, method: str, url: str, **options: Any) -> Any:
        exchange = self._session.request(method, url, timeout=self._timeout, **options)
        return _Once(exchange) if self._once else exchange


class _Once:
    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    async def __aenter__(self) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await self._exchange.__aenter__()
        if response.status >= 500:
            async with response:
                raise discord.DiscordServerError(response, await json_or_text(response))
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)
