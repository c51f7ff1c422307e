"""Numbers and times as people read them."""

from __future__ import annotations

from bot.generation import STANDARD, GenerationRequest, Job
from bot.prompts.grids import compared, grid_words
from bot.prompts.text import inert
from bot.prompts.upscaling import is_plain, redraws

BAR_CELLS = 10
NOTE_CHARS = 400


def ordinal(number: int) -> str:
    """Write 1 as "1st", 12 as "12th"."""
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def duration(seconds: float) -> str:
    """Write seconds as "9 s", "2 min" or "1 h 5 min"."""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def took(seconds: float) -> str:
    """Write a measured time: "0.42 s", "2.1 s", "48 s", "3 min"."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def size(size_bytes: int) -> str:
    """Write bytes as "340 MB" or "6.9 GB" (powers of ten, as download pages do)."""
    if size_bytes < 1e9:
        return f"{size_bytes / 1e6:.0f} MB"
    return f"{size_bytes / 1e9:.1f} GB"


def size_mb(size_bytes: int) -> str:
    """Write a file's size as "12.3 MB" or "0.4 MB"."""
    return f"{size_bytes / 1e6:.1f} MB"


def pictures(count: int) -> str:
    """Write "1 picture" or "3 pictures"."""
    return "1 picture" if count == 1 else f"{count} pictures"


def fetched(done_bytes: int, total_bytes: int | None) -> str:
    """Write a download's progress: "3.1 of 6.9 GB"."""
    if total_bytes is None:
        return size(done_bytes)
    if total_bytes < 1e9:
        return f"{done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
    return f"{done_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB"


def bar(done: int, total: int) -> str:
    """Draw a bar of ten cells."""
    filled = BAR_CELLS * done // max(total, 1)
    return "▰" * filled + "▱" * (BAR_CELLS - filled)


def number(value: float) -> str:
    """Write 4.0 as "4" and 4.5 as "4.5"."""
    return f"{value:g}"


def count_of(number: int, what: str) -> str:
    """Write 1 as "1 request" and 1200 as "1,200 requests"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def subject(request: GenerationRequest) -> str:
    """Say in a line what a request shows: its prompt, or the first of many."""
    return f"{request.count} prompts: {request.prompt}" if request.listed and request.count > 1 else request.prompt


def note(job: Job) -> list[str]:
    """Say what of a request's prompts was not read, in a line, inert; none where all was."""
    return [inert(job.note, NOTE_CHARS)] if job.note else []


def seeds(request: GenerationRequest) -> str:
    """Write the seeds of a request's pictures: "7", or "7 to 9"."""
    own = sorted({request.alone(n).seed for n in range(request.count)})
    if len(own) > 1 and own == list(range(own[0], own[0] + len(own))):
        return f"{own[0]} to {own[-1]}"
    return ", ".join(map(str, own))


def request_facts(request: GenerationRequest, model_name: str) -> list[str]:
    """Name what a request asks for, for the small line below the pictures; of a sheet what it compares last."""
    if is_plain(request):
        return [f"upscaled {request.upscale}× by {model_name}", f"{request.width}×{request.height}"]
    if redraws(request):
        return [
            f"upscaled {request.upscale}×, details by {model_name}",
            f"{request.width}×{request.height}",
            f"{request.steps_taken} steps",
            f"seed {request.seed}",
        ]
    facts = {
        "model": model_name if request.quality == STANDARD else f"{model_name}, {request.quality}",
        "size": f"{request.width}×{request.height}",
        "steps": f"{request.num_inference_steps} steps",
        "guidance": f"guidance {number(request.guidance_scale)}",
        "sampler": request.sampler,
        "seed": f"seeds {seeds(request)}" if request.listed and request.count > 1 else f"seed {request.seed}",
    }
    varied = compared(request)
    own = [text for name, text in facts.items() if name not in varied]
    return [*own, grid_words(request.axes)] if varied else own
