"""The words every floor uses: what is asked, by whom, how far it is, what came of it.

Only frozen dataclasses and enumerations; nothing here knows time, disk, network, Discord or torch.
`n` counts pictures from 0 here (seed + n); people see it from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class InputRef:
    """A picture that was taken in: its digest, and its size in pixels as it is kept."""

    digest: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Axis:
    """What a sheet compares along one of its sides: the option's name, and the values it takes, as people write them."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What somebody asked for, as typed: `None` is "left out".

    `image`, `mask`, `control` and `reference` name pictures that were taken in before; `base_seed` and `variation` belong together. `lines` are
    those of a list of prompts, one picture each, which takes the place of `prompt`; blank ones are skipped. `axes` are those of a sheet that
    compares: along its top, and down its side. `lora` is "name", "name:0.8" or several with commas, and `<lora:name:0.8>` may stand in
    the prompt.
    """

    prompt: str
    negative_prompt: str | None = None
    model: str | None = None
    aspect: str | None = None
    width: int | None = None
    height: int | None = None
    count: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    sampler: str | None = None
    private: bool = False
    spoiler: bool = False
    quality: str | None = None
    image: InputRef | None = None
    strength: float | None = None
    mask: InputRef | None = None
    control: InputRef | None = None
    control_type: str | None = None
    control_scale: float | None = None
    reference: InputRef | None = None
    base_seed: int | None = None
    variation: float | None = None
    tiling: bool = False
    lines: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    lora: str | None = None
    style: str | None = None


PLAIN, DETAIL = "plain", "detail"
UPSCALE_MODES = (PLAIN, DETAIL)
"""How a picture is enlarged: by a network alone, or redrawn in tiles after that."""


@dataclass(frozen=True, slots=True)
class UpscaleOptions:
    """What somebody asked for of a picture that was taken in whole.

    `prompt`, `negative_prompt` and `model` are those of the picture, where they are known.
    """

    image: InputRef
    factor: int = 2
    mode: str = PLAIN
    prompt: str = ""
    negative_prompt: str = ""
    model: str = ""
    seed: int | None = None
    private: bool = False
    spoiler: bool = False


STANDARD, DRAFT = "standard", "draft"
QUALITIES = (STANDARD, DRAFT)
"""`draft`: few steps by the model's own few-step weights, decoded by a tiny VAE."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What one picture of a request has of its own; None is what the request says. Each name is one of the request's."""

    prompt: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    loras: tuple[tuple[str, float], ...] | None = None
    model: str | None = None
    guidance_end: float | None = None
    negative_prompt: str | None = None
    style: str | None = None
    wrap: str | None = None
    more_negative: str | None = None
    reference_scale: float | None = None

    def changes(self) -> dict[str, Any]:
        """Give what it has of its own, by name."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A complete request: the same request gives the same pictures on one machine.

    Picture n is drawn with `seed + n`, and as `variants[n]` says where there are any: one a picture. `axes` say that the pictures
    are shown as one sheet, row by row, the first axis along its top. Sizes are pixels, multiples of 8. From `guidance_end`, a share of the steps, the
    prompt is followed without guidance. `image`, `mask`, `control` and `reference` are digests of input pictures, empty where there is none:
    the picture that is drawn from, of which the last `strength` of the steps are taken; where it is redrawn (white); the map
    that a control network of the kind `control_type` follows, counting `control_scale`; and the picture that an IP-Adapter reads, counting
    `reference_scale`. Where `base_seed` is given, the noise of
    picture n lies between that of `base_seed` (`variation` 0) and its own (1). `tiling`: opposite edges fit together. `loras` are the
    LoRAs it is drawn with, by name, each with its weight. `style` is the id of one; what it did, and what is avoided on the whole
    server, is `wrap`, with `{prompt}` where the prompt goes, and `more_negative`: the prompts themselves are as they were typed. Where the prompt has choices, `prompts` are what each picture chose by its seed.

    With `upscale` (2 or 4; 0 draws) `image` is enlarged so many times to this size, as `upscale_mode` says (UPSCALE_MODES); it was
    drawn by `upscale_source`, where that is known. `model` is then the upscaler's, or the one that redraws the details. What enlarges has
    one picture, and none of `variants`, `axes`, `loras`.
    """

    prompt: str
    negative_prompt: str
    model: str
    width: int
    height: int
    count: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    sampler: str
    private: bool = False
    spoiler: bool = False
    quality: str = STANDARD
    guidance_end: float = 1.0
    image: str = ""
    strength: float = 1.0
    mask: str = ""
    control: str = ""
    control_type: str = ""
    control_scale: float = 1.0
    reference: str = ""
    reference_scale: float = 1.0
    base_seed: int | None = None
    variation: float = 0.0
    tiling: bool = False
    loras: tuple[tuple[str, float], ...] = ()
    style: str = ""
    wrap: str = ""
    more_negative: str = ""
    prompts: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    axes: tuple[Axis, ...] = ()
    upscale: int = 0
    upscale_mode: str = ""
    upscale_source: str = ""

    @property
    def listed(self) -> bool:
        """Whether it is a list of prompts."""
        return bool(self.variants) and not self.axes

    def alone(self, n: int) -> GenerationRequest:
        """Give the request that draws picture n and no other."""
        own = self.variants[n].changes() if self.variants else {}
        if self.prompts:
            own["prompt"] = self.prompts[min(n, len(self.prompts) - 1)]  # a sheet compares pictures of one choice
        return replace(self, **{"seed": self.seed + n, "count": 1, "variants": (), "axes": (), "prompts": (), **own})

    @property
    def told(self) -> GenerationRequest:
        """The request as a model is told it: style and server-wide words written out, also of variants that have their own."""

        def wrapped(prompt: str) -> str:
            return self.wrap.replace("{prompt}", prompt) if self.wrap else prompt

        negative = ", ".join(filter(None, (self.negative_prompt, self.more_negative)))
        plain: dict[str, Any] = {"style": "", "wrap": "", "more_negative": ""}
        told = replace(self, prompt=wrapped(self.prompt), negative_prompt=negative, variants=(), **plain)
        if not self.variants:
            return replace(told, prompts=tuple(wrapped(prompt) for prompt in self.prompts))
        variants: list[Variant] = []
        for n, own in enumerate(self.variants):
            one = self.alone(n).told
            avoided = None if one.negative_prompt == negative else one.negative_prompt
            variants.append(
                replace(own, prompt=one.prompt, negative_prompt=avoided, style=None, wrap=None, more_negative=None)
            )
        return replace(told, prompts=(), variants=tuple(variants))

    @property
    def steps_taken(self) -> int:
        """How many of its steps are really taken: those of a picture that is there already begin late.

        Where its pictures take different numbers of them, their average.
        """
        if self.variants:
            return max(1, round(sum(self.alone(n).steps_taken for n in range(self.count)) / self.count))
        return max(1, int(self.num_inference_steps * self.strength)) if self.image else self.num_inference_steps

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of the models that draw it, in that order."""
        return tuple(dict.fromkeys(own.model or self.model for own in self.variants)) or (self.model,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The digests of the pictures it is drawn from."""
        return tuple(dict.fromkeys(filter(None, (self.image, self.mask, self.control, self.reference))))


def together(requests: Sequence[GenerationRequest]) -> GenerationRequest:
    """Make one list of plain requests that differ in prompt, seed and count alone; one that is alone stays as it is."""
    if len(requests) == 1:
        return requests[0]
    own = [Variant(request.prompt, seed=request.seed + n) for request in requests for n in range(request.count)]
    return replace(requests[0], count=len(own), variants=tuple(own))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from and how to answer it. Ids are Discord snowflakes.

    `interaction_token` lives `expires_at` long (15 minutes); only until then it is kept.
    `guild_id` is None in direct messages. `age_restricted` says that pictures the classifier
    flags may be shown there.
    """

    interaction_id: int
    application_id: int
    interaction_token: str | None = field(repr=False)
    expires_at: datetime
    user_id: int
    user_name: str
    channel_id: int
    guild_id: int | None
    age_restricted: bool
    attachment_size_limit: int
    bot_in_channel: bool = True
    """Whether the bot itself may edit and send there (not in a user-installed context)."""


class JobStatus(StrEnum):
    """`queued → running → rendered → posting → posted`, or `failed` or `cancelled` from any of the first four."""

    QUEUED = "queued"
    RUNNING = "running"
    RENDERED = "rendered"
    POSTING = "posting"
    POSTED = "posted"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in (JobStatus.POSTED, JobStatus.FAILED, JobStatus.CANCELLED)


class PostedTo(StrEnum):
    """Where a posted request was shown. `kept`: it waits in `/history`; `withheld`: not shown at all."""

    CHANNEL = "channel"
    DIRECT_MESSAGE = "direct message"
    KEPT = "kept"
    WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class PictureFile:
    """One finished picture on disk. `path` is absolute; `nsfw_score` is in [0, 1], None where the classifier failed."""

    n: int
    path: str
    file_name: str
    seed: int
    width: int
    height: int
    size_bytes: int
    nsfw_score: float | None
    flagged: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A committed request and where it stands. `note` is that of its result."""

    id: str
    request: GenerationRequest
    origin: Origin
    status: JobStatus
    created_at: datetime
    attempt: int = 0
    message_id: int | None = None
    posted_to: PostedTo | None = None
    error: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    draw_s: float | None = None
    note: str = ""
    files: tuple[PictureFile, ...] = ()

    @property
    def suspect(self) -> bool:
        """Whether this waiting request was being drawn when a process went down, alone or among others."""
        return self.attempt > 0 or self.started_at is not None


@dataclass(frozen=True, slots=True)
class Post:
    """One message of a result that takes several: `part` counts from 1, `pictures` are their `n`.

    `message_id` and `channel_id` are known once there is a message; `done` once it shows the pictures.
    """

    part: int
    pictures: tuple[int, ...]
    message_id: int | None = None
    channel_id: int | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class RawPicture:
    """One drawn picture before encoding: `pixels` are height × width × 3 bytes, RGB, row by row."""

    n: int
    seed: int
    width: int
    height: int
    pixels: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InputPictures:
    """The pictures a request is drawn from, each of the request's own size, `reference` a square; None where it has none."""

    image: RawPicture | None = None
    mask: RawPicture | None = None
    control: RawPicture | None = None
    reference: RawPicture | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One denoising step is done. `preview`, where there is one, is a rough small picture of the first image.

    `finished` are the pictures that were finished since the last news, where a request shows them as they come; they were drawn
    on this `device` in this `dtype`.
    """

    step: int
    steps: int
    preview: RawPicture | None = field(default=None, repr=False)
    finished: tuple[RawPicture, ...] = field(default=(), repr=False)
    device: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What the engine gives back. Times are seconds; `denoise_s` covers the denoising steps alone."""

    pictures: tuple[RawPicture, ...] = field(repr=False)
    denoise_s: float
    total_s: float
    device: str
    dtype: str
    note: str = ""
    """A sentence about what the model left of the prompts unread; empty where it read them all."""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """A model is being downloaded or loaded; sizes are bytes, `total_bytes` None while unknown."""

    model: str
    done_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who presses a button, and the server where they have Manage Messages (None: nowhere, or not here)."""

    user_id: int
    moderates_guild_id: int | None = None

    def may_end(self, job: Job) -> bool:
        """Whether they may cancel or delete a request: their own, or one of the server they moderate."""
        moderates = self.moderates_guild_id is not None and self.moderates_guild_id == job.origin.guild_id
        return self.user_id == job.origin.user_id or moderates


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request waits: `position` counts from 1, `eta_s` is None until step times have been measured.

    `next_user_id` is whose request goes before this one, None at the front.
    """

    position: int
    eta_s: float | None
    next_user_id: int | None = None
