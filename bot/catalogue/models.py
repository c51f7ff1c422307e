"""What a model is to the rest of Easel. Pure.

`models_file.py` reads it; who finds, fetches and loads the weights is `bot/engine/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bot.catalogue.addons import UNETS, AddOn
from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.references import IpAdapterSpec

SIZE_MULTIPLE = 8
MAX_SIDE_PX = 16_384

DRAFT_SUFFIX = "+draft"
INPAINTING_SUFFIX = "+inpainting"
FROM_PICTURES = (*UNETS, "sd3", "flux")
"""Families that may begin from a picture, whole or in part."""
TILED = UNETS
"""Families that may draw pictures whose opposite edges fit together."""
VARIED = (*FROM_PICTURES, "flux2", "z-image")
"""Families that may vary a picture by its noise."""
WEIGHED = FROM_PICTURES
"""Families whose prompts may have weights and be mixed."""
GUIDED_IN_LANES = (*UNETS, "sd3")
"""Families whose guidance is a second row that may be dropped before the end."""


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """How a model draws drafts: its few-step weights and a tiny VAE, each a folder or file, and what goes with them.

    Relative paths count from the catalogue's folder.
    """

    lora: str
    steps: int
    guidance: float
    sampler: str
    tiny_vae: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalogue.

    `source` is a Hub id ("owner/name"), a folder, a `.safetensors` file, or a `.gguf` file of the denoiser, whose other parts
    are in `base`, a Hub id or a folder; relative paths count from the catalogue's folder. `quantization` is how the denoiser's
    weights are stored: None as the dtype says, else one of QUANTIZATIONS. Sizes are pixels; `sizes` maps each aspect ("3:2") to (width, height), and every side is a
    multiple of `side_multiple`. `max_sequence_length` is how many tokens of the prompt are read; None leaves that to
    the pipeline. `sha256` are checksums in hexadecimal, by file inside the folder or repository; a single file's is
    under "". `inpainting` is the folder or Hub id of its weights for inpainting, `controls` the sources of its control networks by kind
    (CONTROL_KINDS of `bot/catalogue/controls.py`); `loras` and `embeddings` are files of its own, by name. `words_width` is how wide the words are that its UNet reads, None
    where that is not known before it is loaded. `vae` is a folder or file in the place of its own VAE, `ip_adapter` what it reads reference
    pictures with.
    """

    id: str
    name: str
    source: str
    family: str
    licence: str
    description: str
    sizes: Mapping[str, tuple[int, int]]
    min_side: int
    max_side: int
    max_pixels: int
    steps: int
    max_steps: int
    guidance: float
    max_guidance: float
    sampler: str
    samplers: tuple[str, ...]
    negative_prompt: bool
    licence_url: str | None = None
    gated: bool = False
    revision: str | None = None
    variant: str | None = None
    download_bytes: int | None = None
    side_multiple: int = SIZE_MULTIPLE
    max_sequence_length: int | None = None
    draft: DraftSpec | None = None
    guidance_end: float = 1.0
    quantization: str | None = None
    base: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])
    inpainting: str | None = None
    controls: Mapping[str, str] = field(default_factory=dict[str, str])
    loras: Mapping[str, str] = field(default_factory=dict[str, str])
    embeddings: Mapping[str, str] = field(default_factory=dict[str, str])
    words_width: int | None = None
    vae: str | None = None
    ip_adapter: IpAdapterSpec | None = None

    @property
    def from_pictures(self) -> bool:
        """Whether it may begin from a picture."""
        return self.family in FROM_PICTURES

    def drafted(self) -> ModelSpec:
        """Give the model as it draws drafts. Raises ValueError where it draws none."""
        if self.draft is None:
            raise ValueError(f"{self.id} draws no drafts")
        samplers = tuple(dict.fromkeys((self.draft.sampler, *self.samplers)))
        return replace(
            self, steps=self.draft.steps, guidance=self.draft.guidance, sampler=self.draft.sampler, samplers=samplers,
            guidance_end=1.0,
        )  # fmt: skip

    @property
    def is_draft(self) -> bool:
        """Whether this is the second entry of a model, that of its drafts, as `with_variants` adds it."""
        return self.id.endswith(DRAFT_SUFFIX)

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height of the model's square (or first) size."""
        return self.sizes.get("1:1") or next(iter(self.sizes.values()))


QUANTIZATIONS = ("int8", "fp8", "gguf")
ASPECTS = ("1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16")


UPSCALER_PREFIX = "upscaler/"
"""Before the ids of upscalers: no model's id has a slash."""


@dataclass(frozen=True, slots=True)
class UpscalerSpec:
    """A network that enlarges pictures: its name, and its `.safetensors` file."""

    name: str
    path: str

    @property
    def id(self) -> str:
        """What a request names it by."""
        return UPSCALER_PREFIX + self.name


@dataclass(frozen=True, slots=True)
class Style:
    """What a style does: `prompt` has `{prompt}` where the member's words go; `negative` is avoided as well."""

    id: str
    name: str
    prompt: str
    negative: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models in the file's order, and what goes onto them; `default` is the id used where none is named.

    `styles` may wrap prompts; `negative` is avoided in every picture of a model that takes a negative prompt. Of the `upscalers` the
    first is used, as of the `annotators` of a kind, which look at pictures.
    """

    models: tuple[ModelSpec, ...]
    default: str
    loras: tuple[AddOn, ...] = ()
    embeddings: tuple[AddOn, ...] = ()
    styles: tuple[Style, ...] = ()
    negative: str = ""
    upscalers: tuple[UpscalerSpec, ...] = ()
    annotators: tuple[AnnotatorSpec, ...] = ()

    def get(self, model_id: str) -> ModelSpec | None:
        """Find a model by id; None where there is none."""
        return next((m for m in self.models if m.id == model_id), None)

    def upscaler(self, upscaler_id: str) -> UpscalerSpec | None:
        """Find an upscaler by id; None where there is none."""
        return next((found for found in self.upscalers if found.id == upscaler_id), None)

    def annotator(self, annotator_id: str) -> AnnotatorSpec | None:
        """Find an annotator by id; None where there is none."""
        return next((found for found in self.annotators if found.id == annotator_id), None)

    def name_of(self, model_id: str) -> str:
        """Name a model or upscaler for people; its id where it has left the catalogue."""
        if model_id.startswith(UPSCALER_PREFIX):
            return model_id.removeprefix(UPSCALER_PREFIX)
        spec = self.get(model_id)
        return model_id if spec is None else spec.name

    def __getitem__(self, model_id: str) -> ModelSpec:
        spec = self.get(model_id)
        if spec is None:
            raise KeyError(model_id)
        return spec


def with_variants(catalogue: Catalogue) -> Catalogue:
    """Add an entry for the drafts and the inpainting weights of every model that has some: to the engine they are models of their own."""
    drafts = tuple(replace(m.drafted(), id=m.id + DRAFT_SUFFIX) for m in catalogue.models if m.draft is not None)
    inpainting = tuple(as_inpainting(m) for m in catalogue.models if m.inpainting is not None)
    return replace(catalogue, models=(*catalogue.models, *drafts, *inpainting))


def as_inpainting(model: ModelSpec) -> ModelSpec:
    """Give the weights for inpainting of a model that has some as a model of their own.

    On the Hub they are fetched in the same variant; a folder has what it has.
    """
    assert model.inpainting is not None
    variant = None if Path(model.inpainting).is_absolute() else model.variant
    return replace(
        model, id=model.id + INPAINTING_SUFFIX, name=f"{model.name} inpainting", source=model.inpainting, draft=None,
        sha256={}, variant=variant, revision=None, gated=False, download_bytes=None, inpainting=None,
    )  # fmt: skip
