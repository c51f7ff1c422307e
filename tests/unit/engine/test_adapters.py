"""LoRAs in lanes: what is drawn with them equals diffusers' own pipeline with `load_lora_weights`, and rows without them stay as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from bot.engine.conditioning.adapters import ADAPTERS_KEPT, Adapter, Weighted, load_adapter, telling_words
from bot.engine.families import Family
from bot.engine.lanes.lane import Formation, Lane
from bot.engine.lanes.levers import Levers
from bot.engine.lanes.networks import Network, arrange
from bot.errors import ModelError
from bot.generation import GenerationRequest
from tests.unit.engine import tiny
from tests.unit.engine.test_canvas import together
from tests.unit.engine.test_lanes import asked, family, lane, same, theirs

FAMILIES = ("sd15", "sdxl", "sd3", "flux-dev")
LAYERS = {
    "sd15": ["to_q", "to_k", "to_out.0", "conv1", "conv_shortcut", "proj_in", "time_emb_proj", "ff.net.0.proj"],
    "sdxl": ["to_q", "to_v", "conv2", "proj_out", "ff.net.2"],
    "sd3": ["to_q", "to_out.0", "add_k_proj"],
    "flux-dev": ["to_q", "proj_mlp", "context_embedder", "norm.linear"],
}


def write_lora(family_name: str, folder: Path, seed: int, *, rank: int = 3, words: bool = True) -> Path:
    """Make a LoRA by chance for the denoiser and, with `words`, the first text encoder, as diffusers saves it."""
    pipe = tiny.pipeline(family_name)
    torch.manual_seed(seed)
    denoiser, name = (pipe.unet, "unet") if hasattr(pipe, "unet") else (pipe.transformer, "transformer")
    layers = {f"{name}_lora_layers": _random_layers(denoiser, rank, LAYERS[family_name])}
    if words:
        layers["text_encoder_lora_layers"] = _random_layers(pipe.text_encoder, 2, ["q_proj", "out_proj", "fc1"])
    type(pipe).save_lora_weights(folder, weight_name=f"{seed}.safetensors", **layers)
    return folder / f"{seed}.safetensors"


def _random_layers(network: Any, rank: int, targets: list[str]) -> dict[str, Any]:
    network.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False))
    state = get_peft_model_state_dict(network)
    return {name: torch.randn_like(tensor) / tensor.shape[0] ** 0.5 for name, tensor in state.items()}


def beside(drawer: Family) -> Any:
    spec = SimpleNamespace(id="tiny", name="Tiny")
    loaded: Any = SimpleNamespace(spec=spec, pipe=drawer.pipe, family=drawer, network=None, adapters={}, size_bytes=0)

    def drop(path: str) -> None:
        loaded.size_bytes -= loaded.adapters.pop(path).size_bytes

    loaded.drop_adapter = drop
    return loaded


def read(drawer: Family, path: Path) -> Adapter:
    loaded = beside(drawer)
    load_adapter(loaded, path.stem, str(path))
    assert loaded.size_bytes == loaded.adapters[str(path)].size_bytes > 0
    return loaded.adapters[str(path)]


def with_loras(drawer: Family, wanted: GenerationRequest, loras: Weighted) -> Lane:
    with torch.inference_mode(), telling_words(drawer.pipe, loras):
        made = lane(drawer, wanted)
    made.loras = loras
    return made


def reference(name: str, wanted: GenerationRequest, files: Sequence[tuple[Path, float]]) -> torch.Tensor:
    """What the installed pipeline draws with these files."""
    drawer = family(name)
    for path, _ in files:
        drawer.pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=f"n{path.stem}")
    if files:
        drawer.pipe.set_adapters([f"n{path.stem}" for path, _ in files], [weight for _, weight in files])
    return theirs(drawer, wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_lanes_with_loras_of_their_own_each_equal_the_pipeline_and_those_without_do(name: str, tmp_path: Path) -> None:
    one, two = write_lora(name, tmp_path, 1), write_lora(name, tmp_path, 2, rank=5, words=False)
    drawer = family(name)
    first, second = read(drawer, one), read(drawer, two)
    wanted = [asked(seed=seed, num_inference_steps=steps) for seed, steps in enumerate((4, 6, 5, 3, 4))]
    wanted[4] = replace(wanted[4], guidance_scale=1.0)
    sets: list[Weighted] = [(), ((first, 0.8),), ((first, -0.5), (second, 1.2)), ((second, 1.2),), ((first, 0.8),)]
    lanes = [with_loras(drawer, one, loras) for one, loras in zip(wanted, sets, strict=True)]
    drawn = together(drawer, lanes, [0, 0, 1, 2, 2])
    paths = {id(first): one, id(second): two}
    plain = [theirs(family(name), one) for one in wanted]
    for ours, request, loras, without in zip(drawn, wanted, sets, plain, strict=True):
        expected = reference(name, request, [(paths[id(adapter)], weight) for adapter, weight in loras])
        same(ours, expected)
        assert bool(loras) == (float((expected - without).abs().max()) > 0.01)


def test_model_after_loras_is_the_one_before_them_bit_by_bit(tmp_path: Path) -> None:
    drawer = family("sdxl")
    before = {name: tensor.clone() for name, tensor in drawer.pipe.unet.state_dict().items()}
    plain = together(drawer, [with_loras(drawer, asked(), ())], [0])[0]
    adapter = read(drawer, write_lora("sdxl", tmp_path, 1))
    together(drawer, [with_loras(drawer, asked(), ((adapter, 1.0),))], [0])
    assert torch.equal(together(drawer, [with_loras(drawer, asked(), ())], [0])[0], plain)
    after = drawer.pipe.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(module._forward_hooks for module in drawer.pipe.unet.modules())


@torch.inference_mode()
def test_formation_with_loras_goes_past_what_is_compiled_and_those_without_through_it(tmp_path: Path) -> None:
    drawer = family("sd15")
    adapter = read(drawer, write_lora("sd15", tmp_path, 1))
    passes: list[int] = []

    def counted(function: Any, /) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            passes.append(len(args[0]))
            return function(*args, **options)

        return call

    network = Network(drawer, Levers(compile=True), compile=counted)
    for loras, rows in (((), [4]), (((adapter, 1.0),), []), ((), [4])):
        passes.clear()
        lanes = [with_loras(drawer, asked(seed=seed), some) for seed, some in enumerate((loras, ()))]
        Formation(drawer, lanes, network).step()
        assert passes == rows


def test_load_adapter_parts_fused_projections_again(tmp_path: Path) -> None:
    drawer = family("sd15")
    path = write_lora("sd15", tmp_path, 1)
    arrange(drawer.pipe, Levers(fused=True))
    loaded = beside(drawer)
    loaded.network = Network(drawer, Levers(fused=True))
    load_adapter(loaded, "mine", str(path))
    assert not loaded.network.levers.fused
    lanes = [with_loras(drawer, asked(), ((loaded.adapters[str(path)], 0.7),))]
    same(together(drawer, lanes, [0])[0], reference("sd15", asked(), [(path, 0.7)]))


def in_the_words_of_sd_scripts(path: Path, target: Path, alphas: dict[str, float]) -> Path:
    """Write a diffusers file as sd-scripts does, with a layer's alpha."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        part, _, rest = name.partition(".")
        layer, half, _ = rest.rsplit(".", 2)
        known = {"unet": "lora_unet", "text_encoder": "lora_te_text_model"}[part]
        prefix = f"{known}_{layer.replace('text_model.', '').replace('.', '_')}"
        state[f"{prefix}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = tensor
        state[f"{prefix}.alpha"] = torch.tensor(alphas[part])
    save_file(state, target)
    return target


def test_lora_of_sd_scripts_with_alphas_equals_the_pipeline(tmp_path: Path) -> None:
    path = in_the_words_of_sd_scripts(
        write_lora("sd15", tmp_path, 1), tmp_path / "9.safetensors", {"unet": 1.5, "text_encoder": 1.5}
    )
    drawer = family("sd15")
    loras: Weighted = ((read(drawer, path), 0.7),)
    same(together(drawer, [with_loras(drawer, asked(), loras)], [0])[0], reference("sd15", asked(), [(path, 0.7)]))


def test_load_adapter_of_another_family_is_refused_with_its_name(tmp_path: Path) -> None:
    path = write_lora("sdxl", tmp_path, 1)
    drawer = family("sd15")
    with pytest.raises(ModelError, match="The LoRA 1 does not suit Tiny"):
        read(drawer, path)
    with pytest.raises(ModelError, match="The LoRA gone is not here any more"):
        load_adapter(beside(drawer), "gone", None)


def test_load_adapter_beyond_the_bound_lets_the_oldest_go(tmp_path: Path) -> None:
    loaded = beside(family("sd15"))
    paths = [write_lora("sd15", tmp_path, seed, words=False) for seed in range(ADAPTERS_KEPT + 1)]
    for path in paths:
        load_adapter(loaded, path.stem, str(path))
    assert list(loaded.adapters) == [str(path) for path in paths[1:]]
    assert loaded.size_bytes == sum(adapter.size_bytes for adapter in loaded.adapters.values())
