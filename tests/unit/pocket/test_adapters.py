"""The files of the adapters: one format of names, and every layer that was trained comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from tests.unit.pocket.small_parts import small_parts
from tools.pocket import distil, lora
from tools.pocket.adapters import save_adapter, with_adapter
from tools.pocket.family import pipeline

FILE = "pytorch_lora_weights.safetensors"
TARGETS = {"lora": lora.TARGETS, "distil": distil.TARGETS}


def learned(targets: str) -> UNet2DConditionModel:
    """An adapter all of whose layers do something."""
    unet = with_adapter(small_parts().unet, targets, 4)
    with torch.no_grad():
        for name, value in unet.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.1)
    return unet


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_saved_adapter_loads_layer_by_layer_and_draws_the_same(targets: str, tmp_path: Path) -> None:
    unet, parts = learned(targets), small_parts()
    save_adapter(unet, tmp_path, {"modelspec.title": "test"})
    pipe = pipeline(parts)
    pipe.load_lora_weights(tmp_path, adapter_name="loaded")
    trained, loaded = get_peft_model_state_dict(unet), get_peft_model_state_dict(pipe.unet, adapter_name="loaded")
    assert set(loaded) == set(trained)
    assert all(torch.equal(value, trained[name].half().float()) for name, value in loaded.items())
    latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 16)
    with torch.no_grad():
        wanted, made = unet(latents, 5, words)[0], pipe.unet(latents, 5, words)[0]
        assert torch.allclose(made, wanted, atol=0.01 * float(wanted.abs().max()))
        pipe.disable_lora()
        assert not torch.allclose(pipe.unet(latents, 5, words)[0], wanted, atol=0.1 * float(wanted.abs().max()))


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_saved_adapter_has_names_of_one_kind(targets: str, tmp_path: Path) -> None:
    save_adapter(learned(targets), tmp_path, {})
    kept = load_file(tmp_path / FILE)
    assert {name.partition(".")[2] for name in kept} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert all(name.startswith("lora_unet_") for name in kept)
    assert {value.dtype for value in kept.values()} == {torch.float16}


def test_a_denoiser_with_a_lora_in_it_is_refused(tmp_path: Path) -> None:
    save_adapter(learned(lora.TARGETS), tmp_path, {})
    parts = small_parts()
    pipeline(parts).load_lora_weights(tmp_path)
    with pytest.raises(ValueError, match="already"):
        with_adapter(parts.unet, lora.TARGETS, 4)
