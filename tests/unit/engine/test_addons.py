"""What lies in the data directory: found, told by its header, and what it does to the built-in model's pixels."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from bot.catalogue.models import Catalogue
from bot.config import read_settings
from bot.engine.conditioning import adapters
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.addons import EMBEDDINGS, LORAS, Found, find_addons, lora_hashes, short_hash
from bot.engine.files.models import load_catalogue
from bot.errors import ModelError, RequestError
from bot.generation import RawPicture
from tests.unit.engine.fakes import ROOT, Notes, request
from tests.unit.engine.orders import admitted, drawn, error_of, same
from tests.unit.engine.test_checkpoints import catalogue_of, engine_of
from tests.unit.engine.test_diffusers_engine import pixels
from tests.unit.engine.test_drafts import reference_pipe, theirs
from tools.pocket.lora_pictures import is_chalk

CHALK = ROOT / "models" / "pocket-extras" / "lora-chalk" / "pytorch_lora_weights.safetensors"
SKETCHBOOK = ROOT / "models" / "pocket-extras" / "embedding-sketchbook" / "sketchbook.safetensors"
BOAT = "chalk drawing of a boat on the sea"


def write(path: Path, *names: str, shape: tuple[int, ...] = (4, 768), **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(shape) for name in names}, path, metadata=metadata or None)
    return path


def found(catalogue: Catalogue, folder: Path, what: str = LORAS) -> Found:
    bare = replace(catalogue, models=tuple(replace(spec, loras={}, embeddings={}) for spec in catalogue.models))
    return find_addons(bare, folder, what)


UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("names", "shape", "metadata", "family", "kind"),
    [
        ([f"{UNET}.lora_down.weight"], (4, 768), {}, "sd15", "LoRA"),
        ([f"{UNET}.lora_down.weight"], (4, 1024), {}, "sd21", "LoRA"),
        (["unet.down_blocks.0.attn2.to_v.lora_A.weight"], (4, 2048), {}, "sdxl", "LoRA"),
        (["unet.mid_block.attn2.processor.to_k_lora.down.weight"], (4, 128), {}, "unet", "LoRA"),
        (["lora_unet_mid_block_resnets_0_conv1.lora_down.weight"], (4, 8, 3, 3), {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl", "LoCon"),
        (["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"], (4, 768), {}, "sd15", "LoRA"),
        (["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"], (4, 1280), {}, "sdxl", "LoRA"),
        ([f"{UNET}.hada_w1_a", f"{UNET}.lora_down.weight"], (4, 768), {}, "sd15", "LoHa"),
        ([f"{UNET}.lora_down.weight", f"{UNET}.dora_scale"], (4, 768), {}, "sd15", "DoRA"),
        ([f"{UNET}.lora_down.weight", f"{UNET}.lokr_w1"], (4, 768), {}, "sd15", "LoKr"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], (4, 1536), {}, "sd3", "LoRA"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], (4, 3072), {}, "flux", "LoRA"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], (4, 3072), {}, "flux", "LoRA"),
    ],
)  # fmt: skip
def test_find_addons_tells_family_and_kind_from_the_header(
    catalogue: Catalogue, tmp_path: Path, names: list[str], shape: tuple[int, ...], metadata: dict[str, str], family: str,
    kind: str,
) -> None:  # fmt: skip
    write(tmp_path / "loras" / "mine.safetensors", *names, shape=shape, **metadata)
    (addon,) = found(catalogue, tmp_path).addons
    assert (addon.name, addon.family, addon.kind) == ("mine", family, kind)


def test_find_addons_leaves_out_what_will_not_do_and_says_why(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    write(folder / "good.safetensors", f"{UNET}.lora_down.weight")
    write(folder / "anime" / "inner.safetensors", f"{UNET}.lora_down.weight")
    write(folder / "anime" / "deeper" / "unseen.safetensors", f"{UNET}.lora_down.weight")
    write(folder / "anime" / "good.safetensors", f"{UNET}.lora_down.weight")
    write(folder / "a,b.safetensors", f"{UNET}.lora_down.weight")
    write(folder / "model.safetensors", "model.diffusion_model.input_blocks.0.0.weight")
    write(folder / "klein.safetensors", "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight")
    (folder / "old.pt").write_bytes(b"\x80\x02never read")
    (folder / "false.safetensors").write_bytes(b"\x80\x04never read, either")
    write(
        folder / "flat.safetensors", "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", shape=(4,)
    )
    outside = write(tmp_path / "outside.safetensors", f"{UNET}.lora_down.weight")
    os.symlink(outside, folder / "link.safetensors")
    told = found(catalogue, tmp_path)
    assert [addon.name for addon in told.addons] == ["good", "inner"]
    said = "\n".join(told.left_out)
    for words in (
        "same name", "name that nobody could write", "flat.safetensors is left out", "model.safetensors is left out: it is no LoRA", "klein.safetensors is left out",
        "old.pt is left out: a pickle", "is a pickle under another name", "link that leads out",
    ):  # fmt: skip
        assert words in said


def test_find_addons_trigger_words_come_from_beside_the_file_else_from_inside(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    folder, layer = tmp_path / "loras", f"{UNET}.lora_down.weight"
    tags = json.dumps({"10_cat": {"cat": 5, "fluffy ": 9, "1girl": 2}, "broken": 3})
    write(folder / "a.safetensors", layer, ss_tag_frequency=tags)
    write(folder / "b.safetensors", layer, ss_tag_frequency=tags, **{"modelspec.trigger_phrase": "in the b style"})
    write(folder / "c.safetensors", layer, ss_tag_frequency="{" * 5000)
    write(folder / "d.safetensors", layer, ss_tag_frequency=tags)
    (folder / "d.txt").write_text("dee\nsecond\n")
    write(folder / "e.safetensors", layer)
    (folder / "e.json").write_text(json.dumps({"activation text": "ee"}))
    triggers = {addon.name: addon.triggers for addon in found(catalogue, tmp_path).addons}
    assert triggers == {
        "a": ("fluffy", "cat", "1girl"), "b": ("in the b style",), "c": (), "d": ("dee", "second"), "e": ("ee",),
    }  # fmt: skip


def test_find_addons_embeddings_are_told_by_their_width(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    write(folder / "hands.safetensors", "emb_params", shape=(8, 768))
    save_file({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, folder / "both.safetensors")
    write(folder / "lora.safetensors", "a", "b")
    write(folder / "long.safetensors", "emb_params", shape=(80, 768))
    told = found(catalogue, tmp_path, EMBEDDINGS)
    assert [(one.name, one.family) for one in told.addons] == [("both", "sdxl"), ("hands", "sd15")]
    assert ["is no textual inversion" in sentence for sentence in told.left_out] == [True, True]


def test_short_hash_is_that_of_the_weights_without_the_header(catalogue: Catalogue, tmp_path: Path) -> None:
    one = write(tmp_path / "one.safetensors", "a", note="x")
    other = write(tmp_path / "other.safetensors", "a", note="another header")
    assert short_hash(str(one)) == short_hash(str(other)) != ""
    assert short_hash(str(tmp_path / "none")) == ""
    hashes = lora_hashes(catalogue, request(loras=(("chalk", 1.0), ("gone", 1.0))))
    assert hashes == {"chalk": short_hash(str(CHALK))}


# On the built-in model's pixels.


def image(picture: RawPicture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)


def chalky(engine: DiffusersEngine, **changes: Any) -> list[bool]:
    asked = request(BOAT, width=128, height=128, num_inference_steps=12, count=4, seed=1, **changes)
    return [bool(is_chalk(image(picture))) for picture in engine.generate(asked, Notes()).pictures]


def test_lora_changes_the_style_and_at_weight_0_changes_nothing(engine: DiffusersEngine) -> None:
    assert sum(chalky(engine)) == 0
    assert sum(chalky(engine, loras=(("chalk", 1.0),))) >= 3
    plain, nothing = (
        engine.generate(request(BOAT, loras=loras), Notes()).pictures[0] for loras in ((), (("chalk", 0.0),))
    )
    assert plain.pixels == nothing.pixels


def test_rows_with_and_without_loras_share_their_passes_and_draw_what_they_draw_alone(
    engine: DiffusersEngine, rows: list[int]
) -> None:
    sets: list[Any] = [(), (("chalk", 1.0),), (("chalk", 0.6), ("easelbot", 1.0))]
    single = [engine.generate(request(BOAT, loras=loras), Notes()).pictures[0] for loras in sets]
    rows.clear()
    together = drawn(engine, *(admitted(engine, BOAT, loras=loras) for loras in sets))
    assert rows == [6] * 4
    for one, other in zip(single, together, strict=True):
        same(one, other)
    assert engine.generate(request(BOAT), Notes()).pictures[0].pixels == single[0].pixels
    assert np.abs(pixels(single[0]) - pixels(single[1])).mean() > 3


def test_loras_of_a_request_do_not_push_each_other_out(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed = engine._catalogue
    copies = [
        replace(listed.loras[0], name=f"c{n}", path=str(shutil.copy(CHALK, tmp_path / f"c{n}.safetensors")))
        for n in range(9)
    ]
    monkeypatch.setattr(engine, "_catalogue", replace(listed, loras=tuple(copies)))
    for names in ((0, 1, 2, 3, 4), (5, 6, 7), (0, 8, 1, 5), (2, 3)):
        loras = tuple((f"c{n}", 0.1) for n in names)
        assert engine.generate(request(loras=loras, num_inference_steps=1), Notes()).pictures
    assert len(engine.residents.use("pocket").adapters) == adapters.ADAPTERS_KEPT


def test_lora_of_a_draft_is_drawn_with(engine: DiffusersEngine) -> None:
    options = {"quality": "draft", "guidance_scale": 1.0, "sampler": "DDIM"}
    plain, chalk = (
        engine.generate(request(BOAT, loras=loras, **options), Notes()).pictures[0] for loras in ((), (("chalk", 1.0),))
    )
    engine.residents.unload({"pocket+draft"})  # the engine is everybody's
    assert np.abs(pixels(plain) - pixels(chalk)).mean() > 3


def test_embedding_in_a_prompt_changes_its_pixels_and_no_other_prompts(engine: DiffusersEngine) -> None:
    before = engine.generate(request("a cat"), Notes()).pictures[0]
    known, unknown = (
        engine.generate(request(f"a cat, {word}"), Notes()).pictures[0] for word in ("<sketchbook>", "sketchbook")
    )
    assert np.abs(pixels(known) - pixels(unknown)).mean() > 1
    engine._lanes.forget()
    assert engine.generate(request("a cat"), Notes()).pictures[0].pixels == before.pixels


def test_lora_whose_file_is_gone_or_damaged_costs_its_request_alone(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(CHALK.read_bytes()[:-100])
    listed = engine._catalogue
    addon = replace(listed.loras[0], name="broken", path=str(broken))
    monkeypatch.setattr(engine, "_catalogue", replace(listed, loras=(*listed.loras, addon)))
    orders = [admitted(engine, loras=((name, 1.0),)) for name in ("broken", "gone", "chalk")]
    while engine.busy:
        engine.turn()
    errors = [error_of(order) for order in orders]
    assert isinstance(errors[0], ModelError)
    assert "The LoRA broken cannot be used" in str(errors[0])
    assert "The LoRA gone is not here any more" in str(errors[1])
    assert errors[2] is None


def test_lora_with_a_sampler_that_lanes_do_not_have_is_refused(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.generate(request(num_inference_steps=1), Notes())
    family = engine.residents.use("pocket").family
    monkeypatch.setattr(family, "expresses", lambda _: False)
    with pytest.raises(RequestError, match="leave out pictures, variations, tiling, LoRAs and embeddings"):
        engine.generate(request(loras=(("chalk", 1.0),)), Notes())


def test_lora_of_the_text_encoder_too_equals_the_pipeline_and_leaves_the_same_prompt_without_it(tmp_path: Path) -> None:
    """Encoded prompts are kept: those with a LoRA apart from those without."""
    pipe = reference_pipe()
    torch.manual_seed(4)
    layers: dict[str, Any] = {}
    for part, targets in (("unet", ["to_q", "conv1"]), ("text_encoder", ["q_proj", "out_proj", "fc1"])):
        network = getattr(pipe, part)
        network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(network)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "loras", weight_name="mine.safetensors", **layers)
    engine = engine_of(catalogue_of(tmp_path), tmp_path)
    asked = [request(seed=1, loras=loras) for loras in ((), (("mine", 1.5),), (("mine", 0.5),), ())]
    drawn_now = [engine.generate(one, Notes()).pictures[0] for one in asked]
    pipe = reference_pipe()
    assert np.abs(pixels(drawn_now[0]) - theirs(pipe, asked[0])).max() <= 2
    assert drawn_now[0].pixels == drawn_now[3].pixels
    pipe.load_lora_weights(tmp_path / "loras", weight_name="mine.safetensors", adapter_name="mine")
    for picture, one in zip(drawn_now[1:3], asked[1:3], strict=True):
        pipe.set_adapters(["mine"], [one.loras[0][1]])
        assert np.abs(pixels(picture) - theirs(pipe, one)).max() <= 2
    assert np.abs(pixels(drawn_now[1]) - pixels(drawn_now[2])).mean() > 1
    engine.close()


@pytest.fixture
def two_models(tmp_path: Path, catalogue: Catalogue) -> Iterator[DiffusersEngine]:
    """Room on the device for one of two models, and beside it for the other; a LoRA and an embedding that both take."""
    shutil.copytree(CHALK.parent, tmp_path / "loras")
    (tmp_path / "loras" / CHALK.name).rename(tmp_path / "loras" / "chalk.safetensors")
    (tmp_path / "embeddings").mkdir()
    shutil.copy(SKETCHBOOK, tmp_path / "embeddings")
    entry = '[models.{id}]\nname = "{id}"\nsource = "{source}"\nfamily = "sd15"\nlicence = "MIT"\nbase_px = 64\n'
    text = "".join(entry.format(id=name, source=(ROOT / "models" / "pocket").as_posix()) for name in ("one", "two"))
    (tmp_path / "models.toml").write_text(text)
    settings = read_settings({"EASEL_MODELS_FILE": str(tmp_path / "models.toml"), "EASEL_DATA_DIR": str(tmp_path)})
    engine = DiffusersEngine(
        load_catalogue(settings), models_root=tmp_path, cache_dir=tmp_path, device="cpu", dtype="auto", max_batch=4,
        budget_bytes=1, ram_budget_bytes=1 << 30, quantum_s=0.0,
    )  # fmt: skip
    yield engine
    engine.close()


def test_model_that_left_the_card_with_a_lora_comes_back_right(two_models: DiffusersEngine) -> None:
    engine = two_models
    loras = (("chalk", 1.0),)
    prompt = f"{BOAT} <sketchbook>"
    plain, chalk = (
        engine.generate(request(prompt, model="one", loras=some), Notes()).pictures[0] for some in ((), loras)
    )
    one = engine.residents.use("one")
    with_lora = one.size_bytes
    engine.generate(request(model="two", num_inference_steps=1), Notes())
    assert engine.residents.models_in_main_memory == {"one"}
    assert not one.adapters
    assert one.size_bytes < with_lora
    for loras_now, picture in ((loras, chalk), ((), plain), (loras, chalk)):
        again = engine.generate(request(prompt, model="one", loras=loras_now), Notes()).pictures[0]
        assert again.pixels == picture.pixels
    assert engine.residents.use("one") is one


def test_lanes_with_a_lora_outlive_their_models_way_off_the_card(
    two_models: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = two_models
    loads: list[str] = []
    read = adapters._read
    monkeypatch.setattr(adapters, "_read", lambda loaded, *rest: loads.append(loaded.spec.id) or read(loaded, *rest))
    orders = [admitted(engine, BOAT, model=model, loras=(("chalk", 1.0),)) for model in ("one", "two")]
    pictures = drawn(engine, *orders)
    assert engine.metrics.returns >= 1
    assert sorted(loads) == ["one", "two"]
    for order, picture in zip(orders, pictures, strict=True):
        assert picture.pixels == engine.generate(order.request, Notes()).pictures[0].pixels
