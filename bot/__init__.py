"""Easel: a Discord bot that draws with Stable Diffusion on your own GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot.library import describe_image as describe_image
    from bot.library import expand_image as expand_image
    from bot.library import generate_image as generate_image
    from bot.library import upscale_image as upscale_image

__all__ = ["describe_image", "expand_image", "generate_image", "upscale_image"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that `import bot.config` does not wait for torch.
    if name in __all__:
        from bot import library

        return getattr(library, name)
    raise AttributeError(f"module 'bot' has no attribute {name!r}")
