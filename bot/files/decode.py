"""Read pictures that strangers sent: in a process of its own, bounded in time and memory."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from bot.errors import AttachmentRefused
from bot.files.decode_worker import MAX_PIXELS
from bot.provenance import PictureInfo, read_info

log = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 25 * 1024 * 1024
TIMEOUT_S = 10.0
WORKER = Path(__file__).with_name("decode_worker.py")

_SENTENCES = {
    "format": "That file is not a PNG, JPEG or WebP picture; those three are read.",
    "broken": "That picture is damaged or cut off; send the original file again.",
    "pixels": f"That picture has more than {MAX_PIXELS // 1_000_000} megapixels; send a smaller one.",
    "animated": "That picture is animated; send a still PNG, JPEG or WebP.",
    "memory": "That picture takes too much memory to open; send a smaller one.",
    "slow": "That picture takes too long to open; send a simpler or smaller one.",
}


def read_picture_info(data: bytes) -> PictureInfo | None:
    """Read how the picture in `data` was made; None where it does not say.

    Blocks for up to about ten seconds: call it on a pool's thread. Raises AttachmentRefused for what is not
    one sound still PNG, JPEG or WebP of at most 40 megapixels and 25 MiB.
    """
    if not data:
        raise AttachmentRefused("That file is empty; send a PNG, JPEG or WebP picture.")
    if len(data) > MAX_PICTURE_BYTES:
        raise AttachmentRefused(f"That file is larger than {MAX_PICTURE_BYTES >> 20} MiB; send a smaller picture.")
    answer = _ask(data)
    size, texts = answer.get("size"), answer.get("texts")
    if not isinstance(size, list) or not isinstance(texts, dict):
        raise AttachmentRefused(_SENTENCES.get(str(answer.get("refused")), _SENTENCES["broken"]))
    width, height = (int(side) for side in cast("list[Any]", size))
    return read_info({str(key): str(text) for key, text in cast("dict[str, Any]", texts).items()}, (width, height))


def _ask(data: bytes) -> dict[str, Any]:
    # Only what Windows needs to start a program: a decoder that is taken over finds no token in its environment.
    environment = {key: os.environ[key] for key in ("SYSTEMROOT", "PATH") if key in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(WORKER)], input=data, capture_output=True, timeout=TIMEOUT_S, env=environment,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"refused": "slow"}
    except OSError as error:
        log.error("the picture reader did not start: %s", error)
        raise AttachmentRefused("The bot cannot open pictures right now; try again in a moment.") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        # Killed by a limit, or a decoder crashed; either way the file is to blame.
        log.warning(
            "the picture reader ended with %s: %s", done.returncode, done.stderr[-300:].decode(errors="replace")
        )
        return {"refused": "broken"}
    return cast("dict[str, Any]", answer) if isinstance(answer, dict) else {"refused": "broken"}
