"""LoRAs in lanes: read once, kept beside their model, and added to its layers' outputs for the time of a pass. GPU thread.

The model itself stays as it is: for rows without LoRAs nothing is computed otherwise, what is compiled or captured for them stays valid,
and weights may leave the card and come back. Rows of one pass may have different LoRAs and weights; each is computed for its rows.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.engine.files.headers import read_header
from bot.engine.lanes.networks import arrange
from bot.engine.loading.reading import reading
from bot.engine.memory.shelf import Loaded
from bot.errors import ModelError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_OLD_WORDS = re.compile(r"(.+?)(?:\.lora_linear_layer|\.lora|_lora)\.(down|up)\.weight")
ADAPTERS_KEPT = 8
"""LoRAs kept beside a model; those in use stay with their lanes all the same."""
DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What a LoRA adds to one layer: `up(down(x)) · scale`; `down` (rank, in) or (rank, in, k, k), `up` (out, rank) or (out, rank, 1, 1)."""

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None
    scale: float

    def __call__(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Compute it for a layer's input, without the scale."""
        from torch.nn import functional

        x = x.to(self.down.dtype)
        if self.down.ndim == 2:
            return functional.linear(functional.linear(x, self.down), self.up, self.bias)
        inner = functional.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation)
        return functional.conv2d(inner, self.up, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One LoRA on its model's device: what it adds, by part of the pipeline and layer."""

    path: str
    parts: Mapping[str, Mapping[str, LowRank]]
    size_bytes: int

    @property
    def tells_words(self) -> bool:
        """Whether it changes how prompts are encoded."""
        return any(part in TEXT_ENCODERS for part in self.parts)


Weighted = tuple[tuple[Adapter, float], ...]
"""The LoRAs of one picture, each with its weight; none of weight 0."""


class Changes:
    """What LoRAs add to one network, for the rows of a pass."""

    def __init__(self, network: Any, part: str, rows: Sequence[Weighted]) -> None:
        """`rows`: what each row of the pass has; `part` is the network's name in its pipeline."""
        import torch

        self._rows = len(rows)
        self._layers: dict[str, tuple[Any, list[tuple[LowRank, torch.Tensor | None, Any]]]] = {}
        # In the order of each picture's own list, as peft adds them up.
        for adapter in {id(adapter): adapter for row in rows for adapter, _ in row}.values():
            weights = [next((weight for own, weight in row if own is adapter), None) for row in rows]
            places = [place for place, weight in enumerate(weights) if weight is not None]
            different = list(dict.fromkeys(weight for weight in weights if weight is not None))
            layers = adapter.parts.get(part, {})
            if not layers:
                continue
            device = next(iter(layers.values())).down.device
            where = None if len(places) == len(rows) else torch.tensor(places, device=device)
            for name, change in layers.items():
                amount: Any = different[0] * change.scale
                if len(different) > 1:
                    amount = torch.tensor([weights[place] * change.scale for place in places], device=device)  # type: ignore[operator]
                self._layers.setdefault(name, (_layer(network, name), []))[1].append((change, where, amount))

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the network's layers add what the LoRAs say."""
        with ExitStack() as stack:
            for layer, changes in self._layers.values():
                handle = layer.register_forward_hook(self._hook(changes))
                stack.callback(handle.remove)
            yield

    def _hook(self, changes: Sequence[tuple[LowRank, torch.Tensor | None, Any]]) -> Any:
        def add(layer: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x = arguments[0]
            for change, where, amount in changes:
                if where is not None and len(x) != self._rows:
                    raise RuntimeError(f"a layer was given {len(x)} rows of {self._rows}")
                added = change(layer, x if where is None else x[where])
                scale = (
                    amount if isinstance(amount, float) else amount.to(added.dtype).view(-1, *[1] * (added.ndim - 1))
                )
                added = (added * scale).to(output.dtype)
                output = output + added if where is None else output.index_add(0, where, added)
            return output

        return add


@contextmanager
def telling_words(pipe: Any, adapters: Weighted) -> Generator[None]:
    """Let a pipeline's text encoders read with these LoRAs."""
    with ExitStack() as stack:
        for part in TEXT_ENCODERS:
            if any(part in adapter.parts for adapter, _ in adapters):
                stack.enter_context(Changes(getattr(pipe, part), part, [adapters]).in_place())
        yield


def load_adapter(loaded: Loaded, name: str, path: str | None) -> None:
    """Put a LoRA beside a loaded model, on its device; the one used longest ago goes. Raises ModelError or OutOfMemory."""
    if path is None:
        raise ModelError(f"The LoRA {name} is not here any more; leave it out.")
    with reading(f"The LoRA {name} does not suit {loaded.spec.name}"):
        adapter = _read(loaded, name, Path(path))
    _unfuse(loaded)
    while len(loaded.adapters) >= ADAPTERS_KEPT:
        loaded.drop_adapter(next(iter(loaded.adapters)))
    loaded.adapters[path] = adapter
    loaded.size_bytes += adapter.size_bytes
    log.info("loaded the LoRA %s of %s", name, loaded.spec.id)


def _read(loaded: Loaded, name: str, path: Path) -> Adapter:
    try:
        read_header(path)
    except ValueError as error:
        raise ModelError(f"The LoRA {name} cannot be used: {path} {error}.") from None
    pipe, family = loaded.pipe, loaded.family
    assert family is not None
    parts: dict[str, dict[str, LowRank]] = {}
    for part, layers in _layers_of(pipe, path).items():
        network = getattr(pipe, part, None)
        if network is None:
            raise ModelError(f"The LoRA {name} does not suit {loaded.spec.name}, which has no {part}.")
        dtype = family.dtype if part in DENOISERS else network.dtype
        for layer, change in layers.items():
            fitted = _fitted(_layer(network, layer), change)
            if fitted is None:
                raise ModelError(
                    f"The LoRA {name} does not suit {loaded.spec.name}: its layer {layer[:100]} has another shape."
                )
            fitted = replace(
                fitted, down=fitted.down.to(family.device, dtype), up=fitted.up.to(family.device, dtype),
                bias=None if fitted.bias is None else fitted.bias.to(family.device, dtype),
            )  # fmt: skip
            parts.setdefault(part, {})[str(layer)] = fitted
    if not parts:
        raise ModelError(f"The LoRA {name} has nothing for {loaded.spec.name}; choose another one.")
    every = [change for layers in parts.values() for change in layers.values()]
    size = sum(one.numel() * one.element_size() for change in every for one in (change.down, change.up))
    return Adapter(str(path), parts, size)


def _layers_of(pipe: Any, path: Path) -> dict[str, dict[str, LowRank]]:
    """Read a file with diffusers' own converters: what it adds by part of the pipeline and layer, on the CPU."""
    utils: Any = importlib.import_module("diffusers.utils")
    options: dict[str, Any] = {"unet_config": pipe.unet.config} if getattr(pipe, "unet", None) is not None else {}
    if "Flux" in type(pipe).__name__:
        options["return_alphas"] = True
    result = pipe.lora_state_dict(
        str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True, return_lora_metadata=True,
        **options,
    )  # fmt: skip
    state, alphas, metadata = result if len(result) == 3 else (result[0], None, result[1])
    found: dict[str, dict[str, LowRank]] = {}
    for part in (*DENOISERS, *TEXT_ENCODERS):
        mine = _of_part(part, state)
        if mine:
            # The alphas are named as their layers were before these were renamed.
            told = {
                re.sub(r"(\.down\.weight)?$", "", key.removesuffix(".alpha")): alpha
                for key, alpha in _of_part(part, alphas or {}).items()
            }
            told = {
                f"{key}.down.weight" if "lora" in key else f"{key}.lora.down.weight": alpha
                for key, alpha in told.items()
            }
            named = {
                key.removesuffix(".lora_A.weight"): float(alpha) for key, alpha in _renamed(utils, part, told).items()
            }
            found[part] = _low_ranks(_renamed(utils, part, mine), named, _of_part(part, metadata or {}))
    return found


def _of_part(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{part}."): value for key, value in values.items() if key.startswith(f"{part}.")}


def _renamed(utils: Any, part: str, values: dict[str, Any]) -> dict[str, Any]:
    """Name layers as peft does: layer.lora_A.weight and layer.lora_B.weight."""
    if not values or ".lora_A." in next(iter(values)):
        return values
    if part not in TEXT_ENCODERS:
        return utils.convert_unet_state_dict_to_peft(values)
    renamed: dict[str, Any] = {}
    for (
        key,
        value,
    ) in values.items():  # diffusers' own converter fails where a file has nothing for the output's projection
        match = _OLD_WORDS.fullmatch(key)
        layer = None if match is None else re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", match[1])
        renamed[key if match is None else f"{layer}.lora_{'A' if match[2] == 'down' else 'B'}.weight"] = value
    return renamed


def _low_ranks(
    state: Mapping[str, Any], alphas: Mapping[str, float], settings: Mapping[str, Any]
) -> dict[str, LowRank]:
    """Pair the halves of each layer. Raises ValueError for what is no half of a LoRA."""
    pattern = re.compile(r"(.+)\.lora_(A|B)\.(weight|bias)")
    halves: dict[str, dict[str, Any]] = {}
    for key, tensor in state.items():
        match = pattern.fullmatch(key)
        if match is None:
            raise ValueError(f"it holds {key[:100]!r}, which is no part of a plain LoRA.")
        halves.setdefault(match[1], {})[f"{match[2]}.{match[3]}"] = tensor
    found: dict[str, LowRank] = {}
    for layer, half in halves.items():
        if not {"A.weight", "B.weight"} <= half.keys() or "A.bias" in half:
            raise ValueError(f"its layer {layer[:100]!r} is not whole.")
        rank = half["A.weight"].shape[0]
        found[layer] = LowRank(
            half["A.weight"], half["B.weight"], half.get("B.bias"), _scale(layer, rank, alphas, settings)
        )
    return found


def _scale(layer: str, rank: int, alphas: Mapping[str, float], settings: Mapping[str, Any]) -> float:
    """Tell how much a layer counts: alpha over rank, alpha being the rank where no one says."""
    if settings:  # as peft wrote it down
        patterns: Mapping[str, Any] = settings.get("alpha_pattern") or {}
        own = next((patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", layer)), None)
        alpha = float(settings.get("lora_alpha", rank) if own is None else own)
        return alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank
    return alphas.get(layer, float(rank)) / rank


def _layer(network: Any, name: str) -> Any:
    """Find a layer by its name; CLIP's are one level deeper in some versions of transformers. Raises ValueError."""
    for spelling in (name, name.removeprefix("text_model."), f"text_model.{name}"):
        try:
            return network.get_submodule(spelling)
        except AttributeError:
            continue
    raise ValueError(f"it has no layer {name[:100]}.")


def _fitted(layer: Any, change: LowRank) -> LowRank | None:
    """Give what a LoRA adds in the shapes of its layer; None where they do not go together."""
    down, up = change.down, change.up
    if hasattr(layer, "in_features"):
        if down.ndim == 4 and down.shape[2:] == up.shape[2:] == (1, 1):
            down, up = down.flatten(1), up.flatten(1)
        sound = down.ndim == up.ndim == 2
        sides = (layer.in_features, layer.out_features)
    elif hasattr(layer, "in_channels"):
        if down.ndim == 2:
            down, up = down[:, :, None, None], up[:, :, None, None]
        sound = down.ndim == up.ndim == 4 and tuple(down.shape[2:]) == tuple(layer.kernel_size) and layer.groups == 1
        sides = (layer.in_channels, layer.out_channels)
    else:
        return None
    if not sound or (down.shape[1], up.shape[0]) != sides or down.shape[0] != up.shape[1]:
        return None
    return replace(change, down=down, up=up)


def _unfuse(loaded: Loaded) -> None:
    """Part the projections of attention again where a lever has fused them: LoRAs are made for each of them."""
    network = loaded.network
    if network is not None and network.levers.fused:
        network.levers = replace(network.levers, fused=False)
        arrange(loaded.pipe, network.levers)
        network.forget()
