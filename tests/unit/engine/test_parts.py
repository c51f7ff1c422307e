"""What models have besides is fetched from the Hub when it is first asked for, and refused in one sentence where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel

from bot.catalogue.models import Catalogue, with_variants
from bot.catalogue.models_file import parse_catalogue
from bot.catalogue.parts import control_of, find_part, ip_adapter_of, name_of, needs, parts_of
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import locate_parts
from bot.engine.files.weights import ModelFiles
from bot.errors import ModelError
from bot.generation import FetchProgress, InputPictures, Variant
from tests.unit.engine.fakes import POCKET, ROOT, FakeHub, Notes, request
from tests.unit.engine.ip_adapters import write_all
from tests.unit.engine.orders import error_of
from tests.unit.engine.test_from_pictures import disc, raw

EDGES = ROOT / "models" / "pocket-extras" / "controlnet-edges"
GIVEN = "0" * 64
WEIGHTS = "diffusion_pytorch_model.safetensors"


def catalogue_of(parts: str, root: Path) -> Catalogue:
    text = f'[models.mine]\nname = "Mine"\nsource = "{POCKET}"\nfamily = "sd15"\nlicence = "MIT"\n{parts}\n'
    return locate_parts(parse_catalogue(text, origin="models.toml"), root)


def files_for(parts: str, root: Path, token: str | None = None) -> ModelFiles:
    return ModelFiles(catalogue_of(parts, root), models_root=root, cache_dir=root / "hub", hf_token=token)


def fetch(files: ModelFiles, part: str = "mine+canny") -> list[FetchProgress]:
    seen: list[FetchProgress] = []
    files.fetch(part, seen.append, lambda: False)
    return seen


def drawn(parts: str, root: Path, **changes: Any) -> Order:
    engine = DiffusersEngine(
        catalogue_of(parts, root), models_root=root, cache_dir=root / "hub", device="cpu", dtype="fp32", max_batch=1
    )
    changes = changes or {"control": GIVEN, "control_type": "canny"}
    picture = raw(disc((0, 0, 0)).resize((64, 64)))
    inputs = InputPictures(**{name: picture for name in ("control", "reference") if changes.get(name)})
    order = Order(request(model="mine", num_inference_steps=1, **changes), Notes(), None, inputs)
    engine.admit(order)
    while engine.busy:
        engine.turn()
    return order


@pytest.mark.parametrize("folder", ["", "networks/edges"])
def test_fetch_control_network_is_counted_local_afterwards_and_drawn_with(
    hub: FakeHub, tmp_path: Path, folder: str
) -> None:
    hub.add_folder("someone/edges", EDGES)
    if folder:
        served = hub.repositories["someone/edges"]
        hub.repositories["someone/edges"] = {f"{folder}/{name}": data for name, data in served.items()}
    hub.repositories["someone/edges"][f"{folder}/diffusion_pytorch_model.bin".strip("/")] = b"a pickle"
    parts = f'controls = {{ canny = "{"/".join(filter(None, ("someone/edges", folder)))}" }}'
    files = files_for(parts, tmp_path)
    assert not files.is_local("mine+canny")
    seen = fetch(files)
    assert seen[-1].model == "mine+canny"
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert files.is_local("mine+canny")
    assert not any("bin" in asked for asked in hub.asked)
    hub.close()
    assert fetch(files) == []
    assert drawn(parts, tmp_path).future.result(0).pictures


def test_fetch_single_file_of_a_repository_takes_it_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["someone/files"] = {
        "edges.safetensors": (EDGES / WEIGHTS).read_bytes(), "other.safetensors": b"another", "README.md": b"words",
    }  # fmt: skip
    parts = 'controls = { canny = "someone/files/edges.safetensors" }'
    files = files_for(parts, tmp_path)
    fetch(files)
    assert files.is_local("mine+canny")
    assert not any("other" in asked or "README" in asked for asked in hub.asked)
    assert drawn(parts, tmp_path).future.result(0).pictures
    with pytest.raises(ModelError, match=r"someone/files on the Hub has no missing\.safetensors; correct its source"):
        fetch(files_for('controls = { canny = "someone/files/missing.safetensors" }', tmp_path))


def test_fetch_takes_the_variant_of_its_model_where_there_is_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/edges", EDGES)
    half = "diffusion_pytorch_model.fp16.safetensors"
    hub.repositories["someone/edges"][half] = (EDGES / WEIGHTS).read_bytes()
    parts = 'variant = "fp16"\ncontrols = { canny = "someone/edges" }'
    fetch(files_for(parts, tmp_path))
    assert not any(asked.endswith(WEIGHTS) for asked in hub.asked)
    assert drawn('controls = { canny = "someone/edges" }', tmp_path).future.result(0).pictures


def test_fetch_control_network_with_pickles_only_is_refused_unread(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/edges", EDGES)
    served = hub.repositories["someone/edges"]
    served["diffusion_pytorch_model.bin"] = served.pop(WEIGHTS)
    with pytest.raises(ModelError, match=r"Mine's canny control: someone/edges has no \.safetensors weights"):
        fetch(files_for('controls = { canny = "someone/edges" }', tmp_path))
    assert not any(asked.endswith(".bin") for asked in hub.asked)


@pytest.mark.parametrize("trouble", ["gated", "away", "missing", "no network of diffusers"])
def test_fetch_control_network_that_cannot_be_had_says_what_to_do(hub: FakeHub, tmp_path: Path, trouble: str) -> None:
    files = files_for('controls = { canny = "someone/edges" }', tmp_path)
    words = "Mine's canny control: there is no model someone/edges on the Hub"
    if trouble == "gated":
        hub.add_folder("someone/edges", EDGES)
        hub.gated.add("someone/edges")
        words = "Mine's canny control is gated: accept the licence at .*/someone/edges, then set HF_TOKEN"
    elif trouble == "away":
        hub.close()
        words = "Mine's canny control is not on this machine and the Hub .* run `python -m bot models fetch mine.canny`"
    elif trouble == "no network of diffusers":
        hub.repositories["someone/edges"] = {WEIGHTS: b"weights"}
        words = "someone/edges on the Hub is no network of diffusers or transformers, it has no config.json"
    with pytest.raises(ModelError, match=words):
        fetch(files)


def test_engine_without_the_download_says_how_to_fetch_it(tmp_path: Path) -> None:
    order = drawn('controls = { canny = "someone/edges", tile = "someone/edges" }', tmp_path)
    assert (
        "Mine's canny and tile control has not been downloaded yet; run `python -m bot models fetch mine+canny`"
        in str(error_of(order))
    )


def test_control_that_is_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "edges.pth").write_bytes(b"a pickle")
    assert "edges.pth is a pickle" in str(error_of(drawn('controls = { canny = "edges.pth" }', tmp_path)))


def served_adapter(hub: FakeHub, folder: Path) -> str:
    """Put an IP-Adapter and its encoder on the Hub, each beside what is not to be fetched; what a model's table says of it."""
    write_all(UNet2DConditionModel.from_pretrained(POCKET / "unet"), folder)
    hub.add_folder("someone/adapters", folder)
    served = hub.repositories["someone/adapters"]
    hub.repositories["someone/adapters"] = {f"models/{name}": data for name, data in served.items()} | {
        "models/other.safetensors": b"another", "models/image_encoder/pytorch_model.bin": b"a pickle", "README.md": b"words",
    }  # fmt: skip
    return 'ip_adapter = "someone/adapters/models/pooled.safetensors"'


def test_fetch_ip_adapter_brings_its_file_and_encoder_alone_and_is_drawn_with(hub: FakeHub, tmp_path: Path) -> None:
    parts = served_adapter(hub, tmp_path / "made")
    files = files_for(parts, tmp_path)
    assert not files.is_local("mine+reference")
    order = drawn(parts, tmp_path, reference=GIVEN)
    assert "Mine's IP-Adapter has not been downloaded yet; run `python -m bot models fetch mine+reference`" in str(
        error_of(order)
    )
    seen = fetch(files, "mine+reference")
    assert {told.model for told in seen} == {"mine+reference"}
    fetched = {asked.rpartition("/resolve/")[2].partition("/")[2] for asked in hub.asked if "/resolve/" in asked}
    folder = "models/image_encoder"
    assert fetched == {"models/pooled.safetensors", f"{folder}/config.json", f"{folder}/model.safetensors"}
    hub.close()
    assert files.is_local("mine+reference")
    assert fetch(files, "mine+reference") == []
    with_one = drawn(parts, tmp_path, reference=GIVEN, reference_scale=1.0).future.result(0).pictures[0]
    assert with_one.pixels != drawn(parts, tmp_path, reference="").future.result(0).pictures[0].pixels


def test_ip_adapter_without_its_encoder_is_not_here_and_fetching_goes_on_with_that(
    hub: FakeHub, tmp_path: Path
) -> None:
    parts = served_adapter(hub, tmp_path / "made")
    served = hub.repositories["someone/adapters"]
    weights = served.pop("models/image_encoder/model.safetensors")
    files = files_for(parts, tmp_path)
    with pytest.raises(ModelError, match=r"Mine's image encoder: someone/adapters has no \.safetensors weights"):
        fetch(files, "mine+reference")
    assert not files.is_local("mine+reference")
    served["models/image_encoder/model.safetensors"] = weights
    hub.asked.clear()
    fetch(files, "mine+reference")
    assert files.is_local("mine+reference")
    assert not any("pooled" in asked for asked in hub.asked)


def test_ip_adapter_of_the_hub_with_an_encoder_of_this_disk_is_fetched_alone(hub: FakeHub, tmp_path: Path) -> None:
    parts = served_adapter(hub, tmp_path / "made") + '\nip_adapter_encoder = "made/image_encoder"'
    files = files_for(parts, tmp_path)
    fetch(files, "mine+reference")
    assert not any("image_encoder" in asked for asked in hub.asked)
    assert drawn(parts, tmp_path, reference=GIVEN).future.result(0).pictures


def test_ip_adapter_that_came_damaged_is_refused_before_it_is_read(hub: FakeHub, tmp_path: Path) -> None:
    parts = served_adapter(hub, tmp_path / "made")
    hub.repositories["someone/adapters"]["models/pooled.safetensors"] = b"damaged"
    fetch(files_for(parts, tmp_path), "mine+reference")
    words = str(error_of(drawn(parts, tmp_path, reference=GIVEN)))
    assert words.startswith("Mine: ")
    assert "pooled.safetensors" in words


@pytest.mark.parametrize("trouble", ["gated", "away", "missing", "no such file"])
def test_fetch_ip_adapter_that_cannot_be_had_says_what_to_do(hub: FakeHub, tmp_path: Path, trouble: str) -> None:
    files = files_for(served_adapter(hub, tmp_path / "made"), tmp_path)
    words = "Mine's IP-Adapter: there is no model someone/adapters on the Hub"
    if trouble == "gated":
        hub.gated.add("someone/adapters")
        words = "Mine's IP-Adapter is gated: accept the licence at .*/someone/adapters, then set HF_TOKEN"
    elif trouble == "away":
        hub.close()
        words = (
            "Mine's IP-Adapter is not on this machine and the Hub .* run `python -m bot models fetch mine.reference`"
        )
    elif trouble == "missing":
        del hub.repositories["someone/adapters"]
    else:
        del hub.repositories["someone/adapters"]["models/pooled.safetensors"]
        words = r"someone/adapters on the Hub has no models/pooled\.safetensors; correct its source"
    with pytest.raises(ModelError, match=words):
        fetch(files, "mine+reference")


def test_inpainting_weights_of_the_hub_are_a_model_that_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/inpainting", ROOT / "models" / "pocket-inpainting")
    files = files_for('inpainting = "someone/inpainting"', tmp_path)
    assert not files.is_local("mine+inpainting")
    fetch(files, "mine+inpainting")
    assert files.is_local("mine+inpainting")
    assert (files.locate("mine+inpainting")[0] / "unet" / WEIGHTS).is_file()


def test_locate_parts_path_beside_the_models_file_is_no_hub_id(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    parts = 'inpainting = "models/gone"\ncontrols = { canny = "models/gone", tile = "someone/edges" }'
    spec = catalogue_of(parts, tmp_path)["mine"]
    assert spec.inpainting is None
    assert spec.controls == {"tile": "someone/edges"}


def test_needs_names_what_a_request_is_drawn_with() -> None:
    text = """
[models.a]
name = "A"
source = "o/a"
family = "sdxl"
licence = "MIT"
variant = "fp16"
inpainting = "o/a-inpainting"
controls = { union = "o/union", tile = "o/tile" }
ip_adapter = "o/adapters/a.safetensors"
"""
    catalogue = parse_catalogue(text, origin="models.toml")
    asked: dict[str, Any] = {"model": "a"}
    assert needs(catalogue, request(**asked)) == ("a",)
    assert needs(catalogue, request(**asked, image=GIVEN, mask=GIVEN)) == ("a+inpainting",)
    assert needs(catalogue, request(**asked, control=GIVEN, control_type="raw pose")) == ("a", "a+canny")
    assert needs(catalogue, request(**asked, control=GIVEN, control_type="tile", mask=GIVEN)) == (
        "a+inpainting",
        "a+tile",
    )
    assert needs(catalogue, request(**asked, reference=GIVEN, image=GIVEN, mask=GIVEN)) == (
        "a+inpainting",
        "a+reference",
    )
    assert needs(catalogue, request(model="gone", reference=GIVEN)) == ("gone",)
    assert needs(catalogue, request(model="gone", control=GIVEN, control_type="tile")) == ("gone",)
    assert [part.id for part in parts_of(catalogue["a"])] == ["a+inpainting", "a+canny", "a+tile", "a+reference"]
    assert name_of(catalogue, "a+canny") == "A's canny, scribble, depth and pose control"
    assert name_of(catalogue, "a+inpainting") == "A inpainting"
    assert name_of(catalogue, "a+reference") == "A's IP-Adapter"
    assert name_of(catalogue, "a") == "A"
    found = find_part(catalogue, "a+inpainting")
    assert found is not None
    assert found.variant == "fp16"


def test_parts_of_drafts_and_inpainting_weights_are_those_of_their_model(tmp_path: Path) -> None:
    parts = 'ip_adapter = "o/n/a.safetensors"\ncontrols = { canny = "o/edges" }\ninpainting = "o/inpainting"'
    for spec in with_variants(catalogue_of(parts, tmp_path)).models:
        adapter, control = ip_adapter_of(spec), control_of(spec, "canny")
        assert adapter is not None
        assert control is not None
        assert (adapter.id, control.id) == ("mine+reference", "mine+canny")
        assert [each.id for each in adapter.beside] == ["mine+reference"]


def test_needs_of_a_sheet_over_models_name_those_of_each(tmp_path: Path) -> None:
    catalogue = catalogue_of('controls = { canny = "someone/edges" }', tmp_path)
    other = replace(catalogue["mine"], id="other", controls={})
    catalogue = replace(catalogue, models=(*catalogue.models, other))
    sheet = request(
        model="mine", control=GIVEN, control_type="canny", count=3,
        variants=(Variant(model="other"), Variant(), Variant(model="other")),
    )  # fmt: skip
    assert needs(catalogue, sheet) == ("other", "mine", "mine+canny")


def test_inpainting_weights_without_the_variant_of_their_model_are_drawn_with(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/inpainting", ROOT / "models" / "pocket-inpainting")
    catalogue = catalogue_of('inpainting = "someone/inpainting"', tmp_path)
    catalogue = replace(catalogue, models=(replace(catalogue["mine"], variant="fp16"),))
    fetch(ModelFiles(catalogue, models_root=tmp_path, cache_dir=tmp_path / "hub", hf_token=None), "mine+inpainting")
    engine = DiffusersEngine(
        catalogue, models_root=tmp_path, cache_dir=tmp_path / "hub", device="cpu", dtype="fp32", max_batch=1
    )
    picture = raw(disc((0, 0, 0)).resize((64, 64)))
    asked = request(model="mine", num_inference_steps=2, image=GIVEN, mask=GIVEN)
    assert engine.generate(asked, Notes(), InputPictures(image=picture, mask=picture)).pictures
