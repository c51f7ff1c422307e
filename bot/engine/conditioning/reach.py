"""What of a prompt a model does not read, because its tokenizer stops before. Any thread."""

from __future__ import annotations

import inspect
import re
from typing import Any

ENDLESS = 1_000_000
"""Tokenizers without a limit of their own tell a larger one than this."""
_WORD = re.compile(r"[A-Za-z0-9'-]{1,40}$")


def behind(tokenizer: Any, text: str, room: int) -> str:
    """Give the end of a text that lies behind its first `room` tokens, from the beginning of a word; empty where all of it fits.

    Marks that a tokenizer puts around texts do not count.
    """
    quick = bool(getattr(tokenizer, "is_fast", False))
    read: Any = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=quick)
    if len(read.input_ids) <= room:
        return ""
    if not quick:
        return str(tokenizer.decode(read.input_ids[room:], skip_special_tokens=True)).strip()
    start = int(read.offset_mapping[room][0])
    begun = _WORD.search(text[:start]) if text[start : start + 1].isalnum() else None
    return text[begun.start() if begun else start :].strip()


def behind_chat(tokenizer: Any, prompt: str, room: int, **options: Any) -> str:
    """Give the end of a prompt that is not read where it is put into a chat of so many tokens; `options` are those of its template."""

    def chat(content: str) -> str:
        messages = [{"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))

    mark = "\ue000"
    before, _, after = chat(mark).partition(mark)
    lost = len(behind(tokenizer, before + prompt + after, room)) - len(after.rstrip())
    return prompt[-lost:].strip() if lost > 0 else ""


def behind_all(pipe: Any, prompt: str, max_sequence_length: int | None) -> str:
    """Give the end of a prompt that none of a pipeline's tokenizers reads, as far as they tell; empty where one reads all of it.

    `max_sequence_length` is how many tokens the pipeline was asked to read, None where its call's own default holds.
    """
    if max_sequence_length is None:
        default = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
        max_sequence_length = None if default is None else default.default
    names = [name for name in pipe.components if re.fullmatch(r"tokenizer(_\d+)?", name)]
    ends: list[str] = []
    for tokenizer in filter(None, (getattr(pipe, name) for name in names)):
        # CLIP's window is its own; what is asked for is meant for the others.
        own: int = tokenizer.model_max_length
        window = own if "CLIP" in type(tokenizer).__name__ else max_sequence_length or own
        if window > ENDLESS:
            return ""
        ends.append(behind(tokenizer, prompt, window - tokenizer.num_special_tokens_to_add()))
    return min(ends, key=len, default="")
