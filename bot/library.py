"""Pictures from Python, without Discord:

from bot import generate_image
generate_image("a sunset over the mountains").save("output.png")
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot import __version__, provenance
from bot.catalogue import Catalogue
from bot.config import Settings, read_environment
from bot.engine.addons import lora_hashes
from bot.engine.base import DirectEngine, Listener, Weights
from bot.engine.models import compiled_dir, hub_cache, load_catalogue, load_wildcards, model_files, models_root
from bot.errors import RequestError
from bot.files.archive import INPUT_SIDE_PX
from bot.files.credentials import TYPES, Credentials
from bot.files.decode import decode
from bot.files.encode import XMP_KEYWORD, exif_of
from bot.files.inputs import InputShelf
from bot.files.marker import Marker, load_marker
from bot.generation import (
    PLAIN,
    FetchProgress,
    GenerationOptions,
    GenerationRequest,
    GenerationResult,
    InputRef,
    Progress,
    RawPicture,
    UpscaleOptions,
)
from bot.limits import MAX_PROMPT_CHARS, checked_text, resolve, told_by
from bot.moderation import Moderator
from bot.parts import needs
from bot.prompts.again import as_told, options_from, options_told, overridden
from bot.prompts.upscaling import check_upscale, resolve_upscale
from bot.provenance import EASEL_KEY, PARAMETERS_KEY, Marks, PictureInfo, read_info

INPUTS = ("image", "mask", "control", "reference")
"""The options that are pictures."""


def random_seed() -> int:
    """Make up a seed from 0 to 2**32 - 1."""
    return secrets.randbelow(2**32)


class Studio:
    """Everything between a request and its pictures on this machine, without a queue. Draws for one thread at a time."""

    def __init__(
        self, settings: Settings, *, engine: DirectEngine | None = None, weights: Weights | None = None,
        new_seed: Callable[[], int] = random_seed,
    ) -> None:  # fmt: skip
        """Read the catalogue. Raises ConfigError. `engine` and `weights` are made from `settings` where left out."""
        self._settings = settings
        self.catalogue: Catalogue = load_catalogue(settings)
        self._weights: Weights = weights or model_files(self.catalogue, settings)
        self._engine: DirectEngine = engine or _make_engine(self.catalogue, settings)
        self._wildcards = load_wildcards(settings.data_dir)
        self._moderator = Moderator()
        self._inputs = InputShelf(settings.data_dir / "inputs")
        self._new_seed = new_seed
        self._lock = threading.Lock()

    def prepare(self, options: GenerationOptions) -> GenerationRequest:
        """Complete and check what was asked for. Raises RequestError; draws nothing."""
        request = resolve(options, self.catalogue, new_seed=self._new_seed, wildcards=self._wildcards)
        self._moderator.check_request(request, options.lines)
        return request

    def prepare_like(
        self, picture: Image.Image | str | os.PathLike[str], given: GenerationOptions
    ) -> GenerationRequest:
        """Complete and check what draws a picture again, as its file tells; what is `given` comes before that.

        With nothing given, the same picture, pixel for pixel on one machine, where Easel drew it: also after the operator's styles,
        wildcards and settings have changed. Of other programs' files what they tell is taken as options. Raises RequestError, AttachmentRefused.
        """
        texts, size = self._texts_of(picture)
        record = provenance.find_record(texts)
        if record is not None:
            drawn = record.alone
            request = self.prepare(overridden(options_from(drawn), given))
            if given.model is None and given.style is None:
                request = as_told(request, drawn)
                self._moderator.check_request(request)
        else:
            info = read_info(texts, size)
            if info is None or not info.prompt:
                raise RequestError("That picture does not say what made it; write a prompt instead.")
            request = self.prepare(overridden(options_told(info, self.catalogue), given))
        for digest in request.inputs:
            self._inputs.read(digest)
        return request

    def _texts_of(self, picture: Image.Image | str | os.PathLike[str]) -> tuple[Mapping[str, str], tuple[int, int]]:
        if isinstance(picture, Image.Image):
            texts = {str(key): text for key, text in picture.info.items() if isinstance(text, str)}
            return texts, picture.size
        decoded = decode(_bytes_of(picture))
        return decoded.texts, (decoded.width, decoded.height)

    def take_input(
        self, picture: Image.Image | str | os.PathLike[str], *, mask: bool = False, whole: bool = False
    ) -> InputRef:
        """Take in a picture to draw from, a Pillow image or a file's path; a `mask` says where, and what is `whole` is not made smaller.

        Raises AttachmentRefused where it is no sound picture, RequestError where the file cannot be read, or is too large.
        """
        return self._take_in(picture, mask=mask, whole=whole)[0]

    def to_upscale(
        self, picture: Image.Image | str | os.PathLike[str], *, factor: int, mode: str, prompt: str = ""
    ) -> GenerationRequest:
        """Take in a picture to be enlarged and complete the request; without a prompt the one its file tells. Raises as `take_input`."""
        ref, info = self._take_in(picture, whole=True)
        told, negative, model = told_by(info, self.catalogue)
        words = checked_text(prompt, "prompt", MAX_PROMPT_CHARS) or told
        request = resolve_upscale(
            UpscaleOptions(ref, factor, mode, words, negative, model), self.catalogue, new_seed=self._new_seed
        )
        self._moderator.check(request.prompt, request.negative_prompt)
        return request

    def _take_in(
        self, picture: Image.Image | str | os.PathLike[str], *, mask: bool = False, whole: bool = False
    ) -> tuple[InputRef, PictureInfo | None]:
        if isinstance(picture, Image.Image):
            buffer = BytesIO()
            picture.save(buffer, "PNG")
            data = buffer.getvalue()
        else:
            data = _bytes_of(picture)
        decoded = decode(data, INPUT_SIDE_PX, mask=mask)
        if whole:
            check_upscale(decoded.width, decoded.height, 1)
        opened = decoded.picture
        assert opened is not None
        ref = InputRef(self._inputs.put(opened), opened.width, opened.height)
        return ref, read_info(decoded.texts, (decoded.width, decoded.height))

    def draw(
        self,
        request: GenerationRequest,
        listener: Listener | None = None,
        on_fetch: Callable[[FetchProgress], None] | None = None,
    ) -> GenerationResult:
        """Draw a prepared request on this thread, after downloading its models where one is missing.

        Raises ModelError, GenerationError and their kin.
        """
        listener = listener or Silence()
        with self._lock:
            for needed in needs(self.catalogue, request):
                if not self._weights.is_local(needed):
                    self._weights.fetch(needed, on_fetch or _ignore, listener.cancelled)
            self._engine.start()
            return self._engine.generate(request, listener, self._inputs.for_request(request))

    @cached_property
    def marker(self) -> Marker:
        """What turns pictures into marked files; the first use makes a certificate. Raises ConfigError."""
        return load_marker(self._settings, version=__version__, now=datetime.now(UTC))

    def marks(self, request: GenerationRequest, picture: RawPicture, result: GenerationResult) -> Marks:
        """Write down what made a picture, for its file."""
        name = self.catalogue.name_of(request.model)
        return provenance.marks(
            request, picture.n, job_id="", model_name=name, device=result.device, dtype=result.dtype,
            version=__version__, lora_hashes=lora_hashes(self.catalogue, request),
        )  # fmt: skip


def _bytes_of(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{os.fspath(path)} cannot be read: {error.strerror}.") from None


class Silence:
    """A listener who wants nothing."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def wants_preview(self) -> bool:
        """Never."""
        return False

    def on_progress(self, progress: Progress) -> None:
        """Ignore it."""

    def on_load(self, progress: FetchProgress) -> None:
        """Ignore it."""


class Picture(Image.Image):
    """A Pillow image that writes what made it into the file it is saved to, and signs it."""

    credentials: Credentials

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save as Pillow does; PNG, JPEG and WebP get the texts, the IPTC mark and Content Credentials, last.

        Raises StorageError where it cannot be signed.
        """
        suffix = os.path.splitext(str(getattr(fp, "name", fp)))[1]
        name = (format or suffix.lstrip(".")).upper()
        name = "JPEG" if name == "JPG" else name
        kind = TYPES.get(name)
        if kind is None:
            super().save(fp, format, **params)
            return
        self._tell(name, params)
        buffer = BytesIO()
        super().save(buffer, name, **params)
        if isinstance(fp, (str, bytes, os.PathLike)):
            path = Path(os.fsdecode(cast("str", fp)))
            path.write_bytes(self.credentials.sign(buffer.getvalue(), kind, title=path.name))
        else:
            title = Path(str(getattr(fp, "name", f"picture.{name.lower()}"))).name
            fp.write(self.credentials.sign(buffer.getvalue(), kind, title=title))

    def _tell(self, name: str, params: dict[str, Any]) -> None:
        """Add what the picture says of itself to the arguments of Pillow's save, unless the caller has."""
        xmp = self.info.get("xmp")
        texts = {key: text for key in (PARAMETERS_KEY, EASEL_KEY) if isinstance(text := self.info.get(key), str)}
        if name != "PNG":
            params.setdefault("xmp", xmp)
            params.setdefault("exif", exif_of(texts))
        elif "pnginfo" not in params:
            params["pnginfo"] = info = PngInfo()
            for keyword, text in texts.items():
                if keyword == EASEL_KEY or not text.isascii():
                    info.add_itxt(keyword, text)
                else:
                    info.add_text(keyword, text)
            if isinstance(xmp, bytes):
                info.add_itxt(XMP_KEYWORD, xmp.decode("utf-8"))


def generate_image(
    prompt: str = "",
    *,
    like: Image.Image | str | os.PathLike[str] | None = None,
    negative_prompt: str | None = None,
    model: str | None = None,
    aspect: str | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    sampler: str | None = None,
    quality: str | None = None,
    style: str | None = None,
    lora: str | None = None,
    image: Image.Image | str | os.PathLike[str] | None = None,
    strength: float | None = None,
    mask: Image.Image | str | os.PathLike[str] | None = None,
    control: Image.Image | str | os.PathLike[str] | None = None,
    control_type: str | None = None,
    control_scale: float | None = None,
    reference: Image.Image | str | os.PathLike[str] | None = None,
    tiling: bool = False,
    base_seed: int | None = None,
    variation: float | None = None,
) -> Image.Image:
    """Draw one picture and give it as a Pillow image.

    The options are those of `/imagine`; what is left out comes from the model's defaults, or from `like`: a picture whose file says what
    made it, which is drawn again but for what is given. Sizes are pixels, multiples
    of 8; `lora` is "name", "name:0.8" or several with commas; `image`, `mask`, `control` and `reference` are Pillow images or files' paths; `variation` is how far, from 0 to 1, the noise is
    from that of `base_seed` on the way to that of `seed`. `image.info` of what is returned has the texts "parameters" and "easel", which `image.save("output.png")` writes into the file.
    The first call loads the model, which stays in memory. Raises EaselError with a sentence that says what to do.
    """
    images = generate_images(
        prompt, like=like, negative_prompt=negative_prompt, model=model, aspect=aspect, width=width, height=height, count=1,
        steps=steps, guidance=guidance, seed=seed, sampler=sampler, quality=quality, style=style, lora=lora, image=image, strength=strength, mask=mask,
        control=control, control_type=control_type, control_scale=control_scale, reference=reference, tiling=tiling, base_seed=base_seed, variation=variation,
    )  # fmt: skip
    return images[0]


def generate_images(
    prompt: str = "",
    *,
    count: int | None = None,
    like: Image.Image | str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Image.Image]:
    """Draw `count` variants, picture n (from 0) with `seed + n`; otherwise as `generate_image`."""
    studio = _studio()
    marker = studio.marker  # a broken certificate shows before anything is drawn
    for name in INPUTS:
        if options.get(name) is not None:
            options[name] = studio.take_input(options[name], mask=name == "mask")
    given = GenerationOptions(prompt, count=count, **options)
    request = studio.prepare(given) if like is None else studio.prepare_like(like, given)
    result = studio.draw(request)
    return [to_image(picture, studio.marks(request, picture, result), marker) for picture in result.pictures]


def upscale_image(
    image: Image.Image | str | os.PathLike[str], factor: int = 2, *, mode: str = PLAIN, prompt: str = ""
) -> Image.Image:
    """Enlarge a picture 2 or 4 times with the installed super-resolution network; `mode="detail"` redraws its details after that.

    `image` is a Pillow image or a file's path, at most 2048 px a side; `prompt` says what it shows, where its file does not. What is returned
    saves its marks as that of `generate_image`. Raises EaselError with a sentence that says what to do.
    """
    studio = _studio()
    marker = studio.marker
    request = studio.to_upscale(image, factor=factor, mode=mode, prompt=prompt)
    result = studio.draw(request)
    (picture,) = result.pictures
    return to_image(picture, studio.marks(request, picture, result), marker)


def to_image(picture: RawPicture, marks: Marks, marker: Marker) -> Image.Image:
    """Make a Pillow image that carries its marks."""
    picture = marker.watermarked(picture)
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    image.info.update(marks.chunks)
    image.info["xmp"] = marks.xmp.encode("utf-8")
    image.__class__ = Picture
    image.credentials = marker.credentials  # type: ignore[attr-defined]  # it is a Picture now
    return image


@lru_cache(maxsize=1)
def _studio() -> Studio:
    return Studio(read_environment(os.environ))


def _make_engine(catalogue: Catalogue, settings: Settings) -> DirectEngine:
    from bot.engine.diffusers_engine import DiffusersEngine

    return DiffusersEngine(
        catalogue, models_root=models_root(settings), cache_dir=hub_cache(settings), device=settings.device,
        dtype=settings.dtype, max_batch=settings.max_batch, quantum_s=settings.model_quantum_s,
        levers=settings.levers, compiled_dir=compiled_dir(settings),
    )  # fmt: skip


def _ignore(_: FetchProgress) -> None:
    return None
