"""The gateway: HELLO, IDENTIFY, READY, heartbeats, RESUME, and the faults a test wants of it."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from tests.loopback.server import LoopbackDiscord

DISPATCH, HEARTBEAT, IDENTIFY, RESUME, RECONNECT, REQUEST_MEMBERS, INVALID, HELLO, ACK = 0, 1, 2, 6, 7, 8, 9, 10, 11
INTENT_GUILD_MESSAGES, INTENT_DIRECT_MESSAGES = 1 << 9, 1 << 12


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One heartbeat as it came in: `at` is monotonic; `lateness_s` against the one before plus the interval.

    The first of a connection is sent at once and has lateness None.
    """

    at: float
    lateness_s: float | None


@dataclass(slots=True)
class Session:
    """What RESUME picks up again: every dispatched event by its sequence number."""

    id: str
    intents: int
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Connection:
    """One web socket, compressed as the client asked (zlib-stream) or as plain text, which every client reads."""

    def __init__(
        self, ws: web.WebSocketResponse, request: web.Request, *, compress: str | None, interval_s: float
    ) -> None:
        self.ws = ws
        self.request = request
        self.interval_s = interval_s
        self.session: Session | None = None
        self.last_beat_at: float | None = None
        self._deflate = zlib.compressobj() if compress == "zlib-stream" else None

    async def send(self, op: int, data: Any = None, *, event: str | None = None, sequence: int | None = None) -> None:
        """Send one gateway message; a socket that is already gone is no error here."""
        text = json.dumps({"op": op, "d": data, "s": sequence, "t": event})
        try:
            if self._deflate is None:
                await self.ws.send_str(text)
            else:
                packed = self._deflate.compress(text.encode()) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
                await self.ws.send_bytes(packed)
        except ConnectionError:
            pass

    def drop(self) -> None:
        """Break the connection as a dead network does, without a closing handshake."""
        if self.request.transport is not None:
            self.request.transport.abort()


class Gateway:
    """All connections and sessions of the server; the attributes below are for tests to read and to set."""

    def __init__(self, server: LoopbackDiscord, *, heartbeat_interval_s: float) -> None:
        self._server = server
        self.heartbeat_interval_s = heartbeat_interval_s
        self.heartbeats: list[Heartbeat] = []
        self.identified_at: list[float] = []
        self.resumed_at: list[float] = []
        self.acknowledge_heartbeats = True
        self.refuse_identify_with: int | None = None
        """A close code (4004, 4014) that answers every IDENTIFY."""
        self.invalidate_next = 0
        """How many of the next IDENTIFY or RESUME are answered with Invalid Session (not resumable)."""
        self.session_start_limit = {"total": 1000, "remaining": 1000, "reset_after": 86_400_000}
        """What `GET /gateway/bot` tells (milliseconds); every IDENTIFY takes one."""
        self.identify: dict[str, Any] | None = None
        """The data of the last IDENTIFY."""
        self._sessions: dict[str, Session] = {}
        self._connections: list[Connection] = []

    @property
    def live(self) -> Connection | None:
        """The newest connection that has a session, None while there is none."""
        return next((one for one in reversed(self._connections) if one.session and not one.ws.closed), None)

    @property
    def connected(self) -> bool:
        return self.live is not None

    # what a test does to it

    async def dispatch(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to the client; one that is away gets it when it resumes."""
        session = self.live.session if self.live else next(reversed(self._sessions.values()), None)
        if session is None:
            raise RuntimeError("no client has identified yet")
        message = {"event": event, "data": data, "sequence": len(session.events) + 1}
        session.events.append(message)
        if self.live:
            await self.live.send(DISPATCH, data, event=event, sequence=message["sequence"])

    async def dispatch_message(self, event: str, data: dict[str, Any], *, direct: bool) -> None:
        """Send a message event where the client's intents cover it."""
        session = self.live.session if self.live else None
        wanted = INTENT_DIRECT_MESSAGES if direct else INTENT_GUILD_MESSAGES
        if session and session.intents & wanted:
            await self.dispatch(event, data)

    async def close(self, code: int) -> None:
        """Close the live connection with `code`."""
        if self.live:
            await self.live.ws.close(code=code)

    def drop(self) -> None:
        """Break every connection without a closing handshake."""
        for connection in list(self._connections):
            connection.drop()

    async def reconnect(self) -> None:
        """Ask the client to reconnect and resume."""
        if self.live:
            await self.live.send(RECONNECT)

    async def invalidate(self, *, resumable: bool = False) -> None:
        """Tell the client that its session is invalid."""
        if self.live:
            live, session = self.live, self.live.session
            if not resumable and session:
                self._sessions.pop(session.id, None)
                live.session = None
            await live.send(INVALID, resumable)

    # the protocol

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends."""
        ws = web.WebSocketResponse(autoping=True, max_msg_size=0)
        await ws.prepare(request)
        connection = Connection(
            ws, request, compress=request.query.get("compress"), interval_s=self.heartbeat_interval_s
        )
        self._connections.append(connection)
        try:
            await connection.send(HELLO, {"heartbeat_interval": round(connection.interval_s * 1000), "_trace": []})
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    await self._receive(connection, json.loads(message.data))
        finally:
            self._connections.remove(connection)
            self._server.bell.ring()
        return ws

    async def _receive(self, connection: Connection, message: dict[str, Any]) -> None:
        op: int = message["op"]
        data: Any = message.get("d")
        if op == HEARTBEAT:
            now = self._server.now()
            before = connection.last_beat_at
            self.heartbeats.append(Heartbeat(now, None if before is None else now - before - connection.interval_s))
            connection.last_beat_at = now
            if self.acknowledge_heartbeats:
                await connection.send(ACK)
        elif op == IDENTIFY:
            await self._identify(connection, data)
        elif op == RESUME:
            await self._resume(connection, data)
        elif op == REQUEST_MEMBERS:
            members = [user.member_payload() for user in self._server.users.values()]
            chunk = {"guild_id": str(self._server.guild_id), "members": members, "chunk_index": 0, "chunk_count": 1}
            await self.dispatch("GUILD_MEMBERS_CHUNK", {**chunk, "not_found": [], "nonce": data.get("nonce")})
        self._server.bell.ring()

    async def _identify(self, connection: Connection, data: dict[str, Any]) -> None:
        self.identify = data
        self.identified_at.append(self._server.now())
        self.session_start_limit["remaining"] = max(0, self.session_start_limit["remaining"] - 1)
        if self.refuse_identify_with is not None:
            await connection.ws.close(code=self.refuse_identify_with)
            return
        if data["token"] != self._server.token or self._server.revoked:
            await connection.ws.close(code=4004)
            return
        if self._refuse_once():
            await connection.send(INVALID, False)
            return
        session = Session(f"session-{len(self.identified_at)}", data.get("intents", 0))
        self._sessions[session.id] = session
        connection.session = session
        await self.dispatch("READY", self._server.ready_payload(session.id))
        await self.dispatch("GUILD_CREATE", self._server.guild_payload())

    async def _resume(self, connection: Connection, data: dict[str, Any]) -> None:
        session = self._sessions.get(data["session_id"])
        if session is None or data["token"] != self._server.token or self._refuse_once():
            await connection.send(INVALID, False)
            return
        self.resumed_at.append(self._server.now())
        missed = session.events[data["seq"] or 0 :]
        for message in missed:
            await connection.send(DISPATCH, message["data"], event=message["event"], sequence=message["sequence"])
        connection.session = session
        await self.dispatch("RESUMED", {"_trace": []})

    def _refuse_once(self) -> bool:
        if self.invalidate_next <= 0:
            return False
        self.invalidate_next -= 1
        return True
