"""What a picture asks of its model besides: a control network, an IP-Adapter, LoRAs, words; found, and loaded where it is not there yet. GPU thread."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from bot.catalogue.addons import AddOn
from bot.catalogue.controls import kind_of
from bot.catalogue.models import Catalogue
from bot.engine.conditioning.adapters import Weighted, load_adapter
from bot.engine.conditioning.controls import load_control
from bot.engine.conditioning.embeddings import load_embedding
from bot.engine.conditioning.ip_adapters import load_ip_adapter
from bot.engine.devices import Device
from bot.engine.files.addons import path_of
from bot.engine.files.weights import ModelFiles
from bot.engine.memory.shelf import Loaded
from bot.generation import GenerationRequest
from bot.prompts.addons import named_in

Load = Callable[[], None]


def lacking(
    request: GenerationRequest, loaded: Loaded, catalogue: Catalogue, device: Device, files: ModelFiles
) -> Iterator[tuple[str, Load]]:
    """Name what one picture asks for that is not beside its model, each with what loads it, to be done before the next is asked for."""
    kind = kind_of(request.control_type) if request.control else ""
    if kind and loaded.control(kind) is None:
        yield "a control network", functools.partial(load_control, loaded, kind, device, files)
    if loaded.family is None:
        return
    if request.reference and loaded.ip_adapter is None:
        yield "an IP-Adapter", functools.partial(load_ip_adapter, loaded, device, files)
    for name, weight in request.loras:
        path = path_of(catalogue, request.model, name)
        if weight and path in loaded.adapters:
            loaded.use_adapter(path)  # so that the next one to be loaded does not push it out
        elif weight:
            yield "a LoRA", functools.partial(load_adapter, loaded, name, path)
    for addon in words_of(request, catalogue):
        if addon.path not in loaded.embeddings:
            yield "an embedding", functools.partial(load_embedding, loaded, addon, Path(addon.path))


def loras_of(request: GenerationRequest, loaded: Loaded, catalogue: Catalogue) -> Weighted:
    """Give the LoRAs of a request, which are loaded, but for those of weight 0."""
    paths = [(path_of(catalogue, request.model, name), weight) for name, weight in request.loras if weight]
    return tuple((loaded.use_adapter(path), weight) for path, weight in paths if path is not None)


def words_of(request: GenerationRequest, catalogue: Catalogue) -> list[AddOn]:
    """Name the words in a request's prompts that its model is to be taught."""
    spec = catalogue.get(request.model)
    return [] if spec is None else named_in((request.prompt, request.negative_prompt), spec, catalogue)
