"""Bodies in and answers out."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from aiohttp import web

from tests.loopback.bell import ApiError
from tests.loopback.faults import Recorded
from tests.loopback.messages import Upload

RECORD = web.RequestKey("record", Recorded)
BODY: web.RequestKey[Any] = web.RequestKey("body", object)
FILES: web.RequestKey[dict[int, Upload]] = web.RequestKey("files", dict)
"""The uploads of a form by n of `files[n]`."""


def reply(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON whose Content-Type is exactly `application/json`: discord.py reads no other."""
    return web.Response(
        body=json.dumps(body).encode(), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


async def read_body(request: web.Request) -> None:
    """Read JSON or a form into request[BODY], request[FILES] and the record."""
    if BODY in request:
        return
    body: Any = None
    files: dict[int, Upload] = {}
    record = request[RECORD]
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            name = getattr(part, "name", None) or ""
            data = bytes(await part.read())  # type: ignore[union-attr]
            if name == "payload_json":
                body = json.loads(data)
            elif name.startswith("files["):
                upload = Upload(getattr(part, "filename", None) or "unknown", data)
                files[int(name[6:-1])] = upload
                record.files[name] = (upload.filename, len(data))
    elif request.can_read_body:
        raw = await request.read()
        if raw:
            try:
                body = json.loads(raw)
            except ValueError:
                raise ApiError(400, 50109, "The request body contains invalid JSON.") from None
    request[BODY], request[FILES] = body, files
    record.body = body


def reset(request: web.Request) -> None:
    """Break the connection with a TCP reset: linger 0 makes `abort` send one even where nothing is unread."""
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


async def cut_short(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send the head and half the body of `response`, then reset."""
    body = bytes(response.body) if isinstance(response, web.Response) and isinstance(response.body, bytes) else b"{}"
    half = web.StreamResponse(
        status=response.status, headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    reset(request)
    return half
