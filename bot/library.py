"""Pictures from Python, without Discord:

from bot import generate_image
generate_image("a sunset over the mountains").save("output.png")
"""

from __future__ import annotations

import os
import secrets
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from bot import __version__, provenance
from bot.catalogue.models import Catalogue
from bot.catalogue.parts import needs
from bot.config import Settings, read_environment
from bot.engine.base import DirectEngine, Listener, Silence, Weights
from bot.engine.files.addons import lora_hashes
from bot.engine.files.models import compiled_dir, hub_cache, load_catalogue, load_wildcards, model_files, models_root
from bot.errors import RequestError
from bot.files.archive import INPUT_SIDE_PX
from bot.files.decode import decode
from bot.files.inputs import InputShelf
from bot.files.marker import Marker, load_marker
from bot.generation import (
    PLAIN,
    FetchProgress,
    GenerationOptions,
    GenerationRequest,
    GenerationResult,
    InputRef,
    RawPicture,
    UpscaleOptions,
)
from bot.limits import MAX_PROMPT_CHARS, checked_text, resolve, told_by
from bot.moderation import Moderator
from bot.picture import to_image
from bot.prompts.again import as_told, options_from, options_told, overridden
from bot.prompts.describing import SIDE_PX, Description, choose_captioner
from bot.prompts.pictures import USUAL_EXPAND
from bot.prompts.upscaling import check_upscale, resolve_upscale
from bot.provenance import EaselRecord, Marks, PictureInfo, read_info

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

    def read_like(self, picture: Image.Image | str | os.PathLike[str]) -> EaselRecord | PictureInfo:
        """Read what made a picture, a Pillow image or a file's path: Easel's own record, or what another program's file tells.

        Raises RequestError where it says nothing or cannot be read, AttachmentRefused.
        """
        texts, size = self._texts_of(picture)
        told = provenance.find_record(texts) or read_info(texts, size)
        if told is None or (isinstance(told, PictureInfo) and not told.prompt):
            raise RequestError("That picture does not say what made it; write a prompt instead.")
        return told

    def prepare_like(self, told: EaselRecord | PictureInfo, given: GenerationOptions) -> GenerationRequest:
        """Complete and check what draws a picture again, as `read_like` has read it; what is `given` comes before that.

        With nothing given, the same picture, pixel for pixel on one machine, where Easel drew it: also after the operator's styles,
        wildcards and settings have changed. What other programs tell is taken as options. Raises RequestError.
        """
        if isinstance(told, PictureInfo):
            return self.prepare(overridden(options_told(told, self.catalogue), given))
        drawn = told.alone
        request = self.prepare(overridden(options_from(drawn), given))
        if given.model is None and given.style is None:
            request = as_told(request, drawn)
            self._moderator.check_request(request)
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

    def to_expand(
        self, picture: Image.Image | str | os.PathLike[str], options: GenerationOptions, *, side: str, amount: int
    ) -> GenerationRequest:
        """Take in a picture to go on beyond its edges and complete the request; `amount` is percent. Raises as `take_input`."""
        wide, mask = self._inputs.widen(self.take_input(picture).digest, side, amount)
        return self.prepare(replace(options, image=wide, mask=mask))

    def describe(
        self,
        picture: Image.Image | str | os.PathLike[str],
        annotator: str | None = None,
        on_fetch: Callable[[FetchProgress], None] | None = None,
    ) -> Description:
        """Put a picture into words on this thread, after downloading the captioner that is asked for where it is missing.

        Raises as `take_input`, ModelError where there is no captioner, GenerationError.
        """
        spec = choose_captioner(self.catalogue, annotator, self._weights.is_local)
        decoded = decode(_data_of(picture), SIDE_PX)
        assert decoded.picture is not None
        texts, size = (
            self._texts_of(picture)
            if isinstance(picture, Image.Image)
            else (decoded.texts, (decoded.width, decoded.height))
        )
        with self._lock:
            if not self._weights.is_local(spec.id):
                self._weights.fetch(spec.id, on_fetch or _ignore, Silence().cancelled)
            self._engine.start()
            words = self._engine.describe(spec.id, decoded.picture, Silence())
        self._moderator.check(words)
        return Description(words, spec.id, read_info(texts, size))

    def _take_in(
        self, picture: Image.Image | str | os.PathLike[str], *, mask: bool = False, whole: bool = False
    ) -> tuple[InputRef, PictureInfo | None]:
        decoded = decode(_data_of(picture), INPUT_SIDE_PX, mask=mask)
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


def _data_of(picture: Image.Image | str | os.PathLike[str]) -> bytes:
    if not isinstance(picture, Image.Image):
        return _bytes_of(picture)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _bytes_of(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{os.fspath(path)} cannot be read: {error.strerror}.") from None


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
    The first call loads the model, which stays in memory. Where the model does not read a prompt to its end, a warning says from where on.
    Raises EaselError with a sentence that says what to do.
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
    request = studio.prepare(given) if like is None else studio.prepare_like(studio.read_like(like), given)
    result = studio.draw(request)
    if result.note:
        warnings.warn(result.note, stacklevel=2)
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


def expand_image(
    image: Image.Image | str | os.PathLike[str],
    prompt: str,
    *,
    side: str = "all",
    amount: int = USUAL_EXPAND,
    negative_prompt: str | None = None,
    model: str | None = None,
    seed: int | None = None,
) -> Image.Image:
    """Draw what lies beyond the edges of a picture, a Pillow image or a file's path; `prompt` says what the whole shows.

    `side` is one of all, left, right, top, bottom, left and right, top and bottom; `amount` is what is added, in percent of the picture's width or
    height, 10 to 100. What is returned saves its marks as that of `generate_image`. Raises EaselError with a sentence that says what to do.
    """
    studio = _studio()
    marker = studio.marker
    options = GenerationOptions(prompt, negative_prompt, model, seed=seed)
    request = studio.to_expand(image, options, side=side, amount=amount)
    result = studio.draw(request)
    (picture,) = result.pictures
    return to_image(picture, studio.marks(request, picture, result), marker)


def describe_image(image: Image.Image | str | os.PathLike[str], *, annotator: str | None = None) -> Description:
    """Put a picture into words, a Pillow image or a file's path.

    `annotator` is a captioner of the catalogue, None the first that is here. The description's `prompt` are the words, its `info` is what the
    picture says of its making, None where it does not. Raises EaselError with a sentence that says what to do.
    """
    return _studio().describe(image, annotator)


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
