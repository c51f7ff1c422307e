"""What a request needs on disk: its model, or the model's weights for inpainting, and the networks that lie apart from models. Pure.

Who finds and fetches them is `bot/engine/files/weights.py`; each is called by an id of its own there, as models are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from bot.catalogue.annotators import map_makers
from bot.catalogue.controls import kind_of
from bot.catalogue.models import DRAFT_SUFFIX, INPAINTING_SUFFIX, Catalogue, ModelSpec, as_inpainting
from bot.generation import GenerationRequest

NETWORK_WEIGHTS = "diffusion_pytorch_model"
"""What diffusers calls the weights of one network; transformers calls them `model`."""
REFERENCE_SUFFIX = "+reference"


@dataclass(frozen=True, slots=True)
class PartSpec:
    """A network that a model has besides: `source` is a folder, a `.safetensors` file, or either of them on the Hub ("owner/name/folder").

    `variant` is the set of weights to fetch where there are several, `weights` what they are called in a folder. `beside` are the networks
    that it does not work without: they are fetched with it, under its id.
    """

    id: str
    name: str
    source: str
    variant: str | None = None
    gated: bool = False
    revision: str | None = None
    download_bytes: int | None = None
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])
    weights: str = NETWORK_WEIGHTS
    beside: tuple[PartSpec, ...] = ()


def control_of(spec: ModelSpec, kind: str) -> PartSpec | None:
    """Describe the network with which a model follows maps of a kind; None where it has none. Its drafts and inpainting weights have the same.

    Where it reads several kinds it is one part, called by the first of them.
    """
    source = spec.controls.get(kind)
    if source is None:
        return None
    kinds = [each for each, named in spec.controls.items() if named == source]
    what = " and ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
    return PartSpec(f"{_whose(spec)}+{kinds[0]}", f"{spec.name}'s {what} control", source, spec.variant)


def ip_adapter_of(spec: ModelSpec) -> PartSpec | None:
    """Describe what a model reads reference pictures with, the image encoder `beside` the adapter; None where it has none."""
    files = spec.ip_adapter
    if files is None:
        return None
    part_id = _whose(spec) + REFERENCE_SUFFIX
    encoder = PartSpec(part_id, f"{spec.name}'s image encoder", files.encoder, weights="model")
    return PartSpec(part_id, f"{spec.name}'s IP-Adapter", files.weights, beside=(encoder,))


def _whose(spec: ModelSpec) -> str:
    """Give the id of the model that an entry stands for: its drafts and inpainting weights have its parts."""
    return spec.id.removesuffix(DRAFT_SUFFIX).removesuffix(INPAINTING_SUFFIX)


def find_part(catalogue: Catalogue, part_id: str) -> PartSpec | ModelSpec | None:
    """Find what a model has besides by its id: a control network, an IP-Adapter, or weights for inpainting, which are a model of their own."""
    for spec in catalogue.models:
        if spec.inpainting is not None and part_id == spec.id + INPAINTING_SUFFIX:
            return as_inpainting(spec)
        if spec.ip_adapter is not None and part_id == spec.id + REFERENCE_SUFFIX:
            return ip_adapter_of(spec)
        if part_id.startswith(f"{spec.id}+") and (found := control_of(spec, part_id.removeprefix(f"{spec.id}+"))):
            return found
    return None


def parts_of(spec: ModelSpec) -> list[PartSpec | ModelSpec]:
    """List what a model has besides, each once."""
    controls = {part.id: part for kind in spec.controls if (part := control_of(spec, kind)) is not None}
    inpainting = None if spec.inpainting is None else as_inpainting(spec)
    return [part for part in (inpainting, *controls.values(), ip_adapter_of(spec)) if part is not None]


def name_of(catalogue: Catalogue, entry_id: str) -> str:
    """Name for people what is fetched, a model or whatever else; its id where it has left the catalogue."""
    found = find_part(catalogue, entry_id) or catalogue.annotator(entry_id)
    return catalogue.name_of(entry_id) if found is None else found.name


def needs(catalogue: Catalogue, request: GenerationRequest) -> tuple[str, ...]:
    """Name by id what has to be on disk before a request is drawn, each once."""
    return tuple(dict.fromkeys(need for model in request.models for need in _needs_with(catalogue, request, model)))


def _needs_with(catalogue: Catalogue, request: GenerationRequest, model: str) -> list[str]:
    """Name what a request needs for the pictures that a model draws of it."""
    spec = catalogue.get(model)
    if spec is None:
        return [model]
    inpaints = request.mask and spec.inpainting is not None
    named = [spec.id + INPAINTING_SUFFIX if inpaints else spec.id]
    control = control_of(spec, kind_of(request.control_type)) if request.control else None
    if control is not None:
        named.append(control.id)
        with suppress(LookupError):  # the engine says so
            named += [annotator.id for annotator in map_makers(catalogue.annotators, request.control_type)]
    adapter = ip_adapter_of(spec) if request.reference else None
    return named if adapter is None else [*named, adapter.id]
