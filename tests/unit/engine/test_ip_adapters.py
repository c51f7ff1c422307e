"""Lanes with a reference picture equal diffusers' own pipelines with an IP-Adapter, beside lanes without one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bot.catalogue.models import Catalogue
from bot.catalogue.references import IpAdapterSpec
from bot.engine.conditioning.adapters import Weighted, telling_words
from bot.engine.conditioning.image_prompts import ImagePrompt
from bot.engine.conditioning.ip_adapters import IpAdapter, load_ip_adapter
from bot.engine.devices import Device
from bot.engine.families import Family
from bot.engine.files.weights import ModelFiles
from bot.engine.lanes.lane import Formation, Lane
from bot.engine.lanes.levers import Levers
from bot.engine.lanes.networks import Network, arrange
from bot.errors import ModelError
from bot.generation import GenerationRequest, InputPictures
from tests.unit.engine import test_adapters, test_canvas, test_lanes, tiny
from tests.unit.engine.ip_adapters import KINDS, write_all, write_encoder, write_ip_adapter
from tests.unit.engine.test_canvas import control_network, hole, photo, raw, together
from tests.unit.engine.test_lanes import asked, family, same

CPU = Device("cpu", "the processor", "fp32", None)
FILES = ModelFiles(Catalogue((), ""), models_root=Path(), cache_dir=Path("nowhere"), hf_token=None)
FAMILIES = ("sd15", "sd21", "lcm", "sdxl")


def beside(drawer: Family, files: IpAdapterSpec | None) -> Any:
    spec = SimpleNamespace(id="tiny", name="Tiny", ip_adapter=files)
    return SimpleNamespace(spec=spec, pipe=drawer.pipe, family=drawer, ip_adapter=None, size_bytes=0, whole=True)


def read(drawer: Family, files: IpAdapterSpec) -> IpAdapter:
    loaded = beside(drawer, files)
    load_ip_adapter(loaded, CPU, FILES)
    assert loaded.size_bytes == loaded.ip_adapter.size_bytes > 0
    return loaded.ip_adapter


@torch.inference_mode()
def seen(adapter: IpAdapter, picture: int, scale: float = 0.6) -> ImagePrompt:
    return adapter.read(raw(photo(picture)), scale)


def lane(
    drawer: Family, wanted: GenerationRequest, prompt: ImagePrompt | None, loras: Weighted = (), network: Any = None, **pictures: Any
) -> Lane:  # fmt: skip
    with torch.inference_mode(), telling_words(drawer.pipe, loras):
        made = test_canvas.lane(drawer, wanted, InputPictures(**pictures), network)
    made.image_prompt, made.loras = prompt, loras
    return made


def prepared(pipe: Any, files: IpAdapterSpec, scale: float) -> None:
    weights = Path(files.weights)
    pipe.load_ip_adapter(
        str(weights.parent.parent), subfolder=weights.parent.name, weight_name=weights.name, local_files_only=True
    )
    pipe.set_ip_adapter_scale(scale)


def theirs(
    name: str, wanted: GenerationRequest, files: IpAdapterSpec | None, picture: int = 0, scale: float = 0.6,
    loras: Sequence[tuple[Path, float]] = (),
) -> torch.Tensor:  # fmt: skip
    """What a fresh pipeline draws from words with an adapter that diffusers loads itself."""
    drawer = family(name)
    for path, _ in loras:
        drawer.pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=f"n{path.stem}")
    if loras:
        drawer.pipe.set_adapters([f"n{path.stem}" for path, _ in loras], [weight for _, weight in loras])
    if files is None:
        return test_lanes.theirs(drawer, wanted)
    prepared(drawer.pipe, files, scale)
    return test_lanes.theirs(drawer, wanted, ip_adapter_image=photo(picture))


@pytest.mark.parametrize(("name", "kind"), tiny.matrix(FAMILIES, KINDS))
def test_lanes_with_references_of_their_own_each_equal_the_pipeline_and_those_without_do(
    name: str, kind: str, tmp_path: Path
) -> None:
    drawer = family(name)
    files = write_all(drawer.pipe.unet, tmp_path / "models", kind)
    adapter = read(drawer, files)
    wanted = [asked(seed=seed, num_inference_steps=steps) for seed, steps in enumerate((4, 6, 5, 3, 4))]
    wanted[1] = replace(wanted[1], negative_prompt="blue")
    wanted[3], wanted[4] = replace(wanted[3], guidance_scale=1.0), replace(wanted[4], guidance_scale=1.0)
    given = [(0, 0.6), None, (1, 0.6), (2, 1.1), None]
    lanes = [
        lane(drawer, one, None if each is None else seen(adapter, *each))
        for one, each in zip(wanted, given, strict=True)
    ]
    drawn = together(drawer, lanes, [0, 0, 1, 2, 2])
    for ours, request, each in zip(drawn, wanted, given, strict=True):
        plain = theirs(name, request, None)
        expected = plain if each is None else theirs(name, request, files, *each)
        same(ours, expected)
        assert (each is not None) == (float((expected - plain).abs().max()) > 0.01)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_lane_alone_with_a_reference_equals_the_pipeline(name: str, tmp_path: Path) -> None:
    drawer = family(name)
    files = write_all(drawer.pipe.unet, tmp_path / "models")
    for guidance in (1.0, 4.0):
        wanted = asked(guidance_scale=guidance, sampler="DPM++ 2M Karras")
        ours = together(drawer, [lane(drawer, wanted, seen(read(drawer, files), 5))], [0])[0]
        same(ours, theirs(name, wanted, files, 5))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_lanes_with_a_lora_and_a_reference_equal_the_pipeline(name: str, tmp_path: Path) -> None:
    drawer = family(name)
    files = write_all(drawer.pipe.unet, tmp_path / "models", "plus")
    path = test_adapters.write_lora(name, tmp_path, 1)
    adapter, lora = read(drawer, files), test_adapters.read(drawer, path)
    wanted = [asked(seed=seed) for seed in range(3)]
    lanes = [
        lane(drawer, wanted[0], seen(adapter, 1), ((lora, 0.8),)),
        lane(drawer, wanted[1], seen(adapter, 2)),
        lane(drawer, wanted[2], None, ((lora, 0.5),)),
    ]
    both, picture, words = together(drawer, lanes, [0, 1, 0])
    same(both, theirs(name, wanted[0], files, 1, loras=[(path, 0.8)]))
    same(picture, theirs(name, wanted[1], files, 2))
    same(words, theirs(name, wanted[2], None, loras=[(path, 0.5)]))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_lanes_with_other_pictures_and_a_reference_equal_the_pipelines(name: str, tmp_path: Path) -> None:
    drawer = family(name)
    files = write_all(drawer.pipe.unet, tmp_path / "models")
    adapter, network = read(drawer, files), control_network(name)
    wanted = [asked(seed=seed, strength=0.6, control_scale=0.7) for seed in range(5)]
    image, mask, control = photo(7), hole(), photo(8)
    pictures: list[dict[str, Any]] = [
        {"image": raw(image)},
        {"image": raw(image), "mask": raw(mask)},
        {"control": raw(control)},
        {"image": raw(image), "mask": raw(mask), "control": raw(control)},
        {},
    ]
    asking: list[tuple[str, dict[str, Any]]] = [
        ("image", {"image": image}),
        ("mask", {"image": image, "mask_image": mask}),
        ("control", {"image": control}),
        ("control mask", {"image": image, "mask_image": mask, "control_image": control}),
    ]
    lanes = [
        lane(drawer, one, seen(adapter, n) if n < 4 else None, network=network, **pictures[n])
        for n, one in enumerate(wanted)
    ]
    drawn = together(drawer, lanes, [0, 1, 0, 1, 2])
    for n, (kind, told) in enumerate(asking):
        prepare = functools.partial(prepared, files=files, scale=0.6)
        reference = test_canvas.theirs(
            kind, name, family(name), wanted[n], prepare=prepare, ip_adapter_image=photo(n), **told
        )
        same(drawn[n], reference)
    same(drawn[4], theirs(name, wanted[4], None))


def test_model_after_references_is_the_one_before_them_bit_by_bit(tmp_path: Path) -> None:
    drawer = family("sdxl")
    before = {name: tensor.clone() for name, tensor in drawer.pipe.unet.state_dict().items()}
    plain = together(drawer, [lane(drawer, asked(), None)], [0])[0]
    adapter = read(drawer, write_all(drawer.pipe.unet, tmp_path / "models"))
    together(drawer, [lane(drawer, asked(), seen(adapter, 1))], [0])
    assert torch.equal(together(drawer, [lane(drawer, asked(), None)], [0])[0], plain)
    after = drawer.pipe.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in drawer.pipe.unet.modules())


@torch.inference_mode()
def test_formation_with_references_goes_past_what_is_compiled_and_those_without_through_it(tmp_path: Path) -> None:
    drawer = family("sd15")
    adapter = read(drawer, write_all(drawer.pipe.unet, tmp_path / "models"))
    passes: list[int] = []

    def counted(function: Any, /) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            passes.append(len(args[0]))
            return function(*args, **options)

        return call

    network = Network(drawer, Levers(compile=True), compile=counted)
    for prompt, rows in ((None, [4]), (seen(adapter, 1), []), (None, [4])):
        passes.clear()
        lanes = [lane(drawer, asked(seed=seed), each) for seed, each in enumerate((prompt, None))]
        Formation(drawer, lanes, network).step()
        assert passes == rows


def test_lane_with_a_reference_and_fused_projections_equals_the_pipeline(tmp_path: Path) -> None:
    drawer = family("sd15")
    files = write_all(drawer.pipe.unet, tmp_path / "models")
    arrange(drawer.pipe, Levers(fused=True, channels_last=True))
    ours = together(drawer, [lane(drawer, asked(), seen(read(drawer, files), 1))], [0])[0]
    same(ours, theirs("sd15", asked(), files, 1))


def test_step_that_fails_leaves_no_reference_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = family("sd15")
    prompt = seen(read(drawer, write_all(drawer.pipe.unet, tmp_path / "models")), 1)
    first = lane(drawer, asked(), prompt)
    with torch.inference_mode(), monkeypatch.context() as broken:
        broken.setattr(drawer.pipe.unet.conv_out, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Formation(drawer, [first]).step()
    expected = together(drawer, [lane(drawer, asked(), prompt)], [0])[0]
    assert torch.equal(together(drawer, [first], [0])[0], expected)


def _without(part: str) -> Any:
    def change(files: IpAdapterSpec) -> None:
        state = load_file(files.weights)
        save_file({name: tensor for name, tensor in state.items() if not name.startswith(part)}, files.weights)

    return change


def _faces(files: IpAdapterSpec) -> None:
    state = load_file(files.weights)
    width = state.pop("image_proj.proj.weight").shape[0] // 4
    state |= {"image_proj.proj.0.weight": torch.zeros(8, 4), "image_proj.proj.2.weight": torch.zeros(4 * width, 8)}
    save_file(state, files.weights)


def _of_sdxl(files: IpAdapterSpec) -> None:
    write_ip_adapter(tiny.pipeline("sdxl").unet, Path(files.weights))


def _one_more(files: IpAdapterSpec) -> None:
    state = load_file(files.weights)
    extra = {f"ip_adapter.99.to_{which}_ip.weight": torch.zeros(8, 32) for which in "kv"}
    save_file({**state, **extra}, files.weights)


def _odd_projection(files: IpAdapterSpec) -> None:
    save_file({**load_file(files.weights), "image_proj.odd": torch.zeros(3)}, files.weights)


def _cut(files: IpAdapterSpec) -> None:
    path = Path(files.weights)
    path.write_bytes(path.read_bytes()[:-9])


def _pickled(files: IpAdapterSpec) -> None:
    torch.save({"image_proj": {}}, files.weights)


def _gone(files: IpAdapterSpec) -> None:
    Path(files.weights).unlink()


def _other_encoder(files: IpAdapterSpec) -> None:
    write_encoder(Path(files.encoder), projection_dim=20)


def _pickled_encoder(files: IpAdapterSpec) -> None:
    path = Path(files.encoder) / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))


def _half_an_encoder(files: IpAdapterSpec) -> None:
    path = Path(files.encoder) / "model.safetensors"
    state = load_file(path)
    save_file({name: tensor for name, tensor in state.items() if "layers.1" not in name}, path, {"format": "pt"})


def _no_encoder(files: IpAdapterSpec) -> None:
    (Path(files.encoder) / "config.json").unlink()


def _huge_encoder(files: IpAdapterSpec) -> None:
    path = Path(files.encoder) / "config.json"
    path.write_text(path.read_text().replace('"image_size": 32', '"image_size": 100000000'))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("image_proj"), "is no IP-Adapter that reads pictures"),
        (_without("ip_adapter"), "is no IP-Adapter that reads pictures"),
        (_without("ip_adapter.3"), "made for another family; its layer 3 is missing"),
        (_faces, "for faces alone"),
        (_of_sdxl, "made for another family; its layer 1 is 16×64, this model's 16×32"),
        (_one_more, "made for another family; it has"),
        (_odd_projection, "of a kind that is not known"),
        (_cut, "cut off or damaged"),
        (_pickled, "refused unread"),
        (_gone, "there is no .*pooled.safetensors; correct its source"),
        (_other_encoder, "reads 24 numbers where it gives 20"),
        (_pickled_encoder, "has no .safetensors weights; others are refused unread"),
        (_half_an_encoder, "it has no .*layers.1"),
        (_no_encoder, "has no config.json"),
        (_huge_encoder, "pictures have 100000000 px"),
    ],
    ids=[
        "no projection", "no layers", "a layer missing", "faces", "another family", "a layer more", "odd projection", "cut off",
        "pickle", "gone", "another encoder", "pickled encoder", "half an encoder", "no encoder", "huge pictures",
    ],
)  # fmt: skip
def test_load_ip_adapter_that_will_not_do_is_refused_with_its_name(change: Any, words: str, tmp_path: Path) -> None:
    drawer = family("sd15")
    files = write_all(drawer.pipe.unet, tmp_path)
    change(files)
    loaded = beside(drawer, files)
    with pytest.raises(ModelError, match=words) as refused:
        load_ip_adapter(loaded, CPU, FILES)
    assert "Tiny" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (loaded.ip_adapter, loaded.size_bytes) == (None, 0)


def test_load_ip_adapter_of_a_model_that_has_none_any_more_says_so() -> None:
    with pytest.raises(ModelError, match="Tiny reads no reference pictures any more"):
        load_ip_adapter(beside(family("sd15"), None), CPU, FILES)


def test_load_ip_adapter_beside_a_model_in_turns_waits_in_main_memory(tmp_path: Path) -> None:
    drawer = family("sd15")
    loaded = beside(drawer, write_all(drawer.pipe.unet, tmp_path))
    loaded.whole = False
    load_ip_adapter(loaded, CPU, FILES)
    assert (loaded.ip_adapter.rests_on.type, loaded.ip_adapter.size_bytes, loaded.size_bytes) == ("cpu", 0, 0)


@pytest.mark.parametrize("broken", [False, True])
def test_read_leaves_the_device_afterwards_for_where_its_adapter_rests(tmp_path: Path, broken: bool) -> None:
    """Where there is no card, what has left for "meta" is nowhere."""
    drawer = family("sd15")
    adapter = read(drawer, write_all(drawer.pipe.unet, tmp_path))
    expected = seen(adapter, 1)
    adapter = replace(adapter, rests_on=torch.device("meta"))
    if broken:
        adapter.projection.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            seen(adapter, 1)
    else:
        for told, before in zip(
            seen(adapter, 1).towards.layers.values(), expected.towards.layers.values(), strict=True
        ):
            assert all(map(torch.equal, told, before))
    assert {weight.device.type for one in (adapter.encoder, adapter.projection) for weight in one.parameters()} == {
        "meta"
    }
