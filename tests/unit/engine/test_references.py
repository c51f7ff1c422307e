"""Reference pictures in the engine: the built-in model with an IP-Adapter made by chance, beside requests without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.engine.base import Order
from bot.engine.conditioning.ip_adapters import IpAdapter
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import locate_parts
from bot.engine.memory import residents
from bot.engine.memory.placing import groups
from bot.engine.memory.plans import Mode, Plan
from bot.errors import ModelError
from bot.generation import InputPictures, RawPicture, Variant
from tests.unit.engine import tiny
from tests.unit.engine.fakes import POCKET, ROOT, Notes, request
from tests.unit.engine.ip_adapters import write_all
from tests.unit.engine.orders import drawn, error_of, same, until
from tests.unit.engine.test_canvas import hole, photo, raw
from tests.unit.engine.test_diffusers_engine import pixels
from tests.unit.engine.test_placing import engine_of

GIVEN = "a" * 64
"""The engine does not look digests up: the pictures come beside the request."""


@pytest.fixture(scope="module")
def shown(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The catalogue, with an IP-Adapter of the built-in model."""
    unet = UNet2DConditionModel.from_pretrained(POCKET / "unet")
    files = write_all(unet, tmp_path_factory.mktemp("ip-adapter"), "plus")
    models = tuple(replace(spec, ip_adapter=files) if spec.id == "pocket" else spec for spec in catalogue.models)
    return replace(catalogue, models=models)


@pytest.fixture
def engine(shown: Catalogue, tmp_path: Path) -> Iterator[DiffusersEngine]:
    engine = DiffusersEngine(shown, models_root=ROOT, cache_dir=tmp_path, device="cpu", dtype="auto", max_batch=4)
    yield engine
    engine.close()


def order(engine: DiffusersEngine, picture: int | None = 1, **changes: Any) -> Order:
    inputs = InputPictures() if picture is None else InputPictures(reference=raw(photo(picture)))
    if "image" in changes:
        inputs = replace(inputs, image=raw(photo(9)), mask=raw(hole()) if "mask" in changes else None)
    told = {} if picture is None else {"reference": GIVEN, "reference_scale": 0.6}
    made = Order(request(**{**told, **changes}), Notes(), None, inputs)
    engine.admit(made)
    return made


def alone(engine: DiffusersEngine, *args: Any, **changes: Any) -> RawPicture:
    return drawn(engine, order(engine, *args, **changes))[0]


def apart(one: RawPicture, other: RawPicture) -> float:
    return float(np.abs(pixels(one) - pixels(other)).mean())


def test_reference_changes_its_own_picture_and_none_beside_it(engine: DiffusersEngine) -> None:
    plain = alone(engine, None)
    first, second = alone(engine, 1), alone(engine, 2)
    assert min(apart(plain, first), apart(plain, second), apart(first, second)) > 2
    together = drawn(engine, order(engine, 1), order(engine, None), order(engine, 2))
    for one, other in zip(together, (first, plain, second), strict=True):
        same(one, other)
    assert alone(engine, None) == plain
    assert alone(engine, 1) == first


def test_requests_with_and_without_a_reference_share_the_denoisers_calls(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(engine, 1)
    unet, rows = engine.residents.use("pocket").pipe.unet, list[int]()
    forward = unet.forward
    monkeypatch.setattr(
        unet, "forward", lambda sample, *a, **k: (rows.append(len(sample)), forward(sample, *a, **k))[1]
    )
    drawn(engine, order(engine, 1), order(engine, None), order(engine, 2, guidance_scale=1.0))
    assert max(rows) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": "draft", "guidance_scale": 1.0},
        {"image": GIVEN, "strength": 0.7},
        {"image": GIVEN, "mask": GIVEN, "strength": 1.0},
        {"loras": (("chalk", 0.8),)},
        {"tiling": True},
        {"guidance_end": 0.5},
        {"prompt": "a (red:1.4) circle"},
    ],
    ids=["draft", "image", "mask", "LoRA", "tiling", "guidance end", "weights"],
)
def test_reference_together_with_another_option_is_drawn_and_counts(
    engine: DiffusersEngine, changes: dict[str, Any]
) -> None:
    assert apart(alone(engine, 1, **changes), alone(engine, None, **changes)) > 0.5


def test_reference_of_a_list_is_looked_at_once(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    read = IpAdapter.read

    def counted(self: IpAdapter, picture: RawPicture, scale: float) -> Any:
        looked.append(scale)
        return read(self, picture, scale)

    monkeypatch.setattr(IpAdapter, "read", counted)
    own = tuple(Variant(f"a {colour} circle", seed=n) for n, colour in enumerate(("red", "blue", "green")))
    drawn(engine, order(engine, 1, count=3, variants=own))
    assert looked == [0.6]


def test_ip_adapter_counts_in_the_models_size_and_goes_and_comes_with_it(engine: DiffusersEngine) -> None:
    alone(engine, None)
    loaded = engine.residents.use("pocket")
    before = loaded.size_bytes
    picture = alone(engine, 1)
    assert loaded.ip_adapter is not None
    assert loaded.size_bytes == before + loaded.ip_adapter.size_bytes
    loaded.drop_controls()
    assert (loaded.ip_adapter, loaded.size_bytes) == (None, before)
    assert alone(engine, 1) == picture


def test_lane_with_a_reference_outlives_the_unloading_of_its_model(shown: Catalogue, tmp_path: Path) -> None:
    now = [0.0]
    two = tuple(replace(shown["pocket"], id=name, draft=None, inpainting=None) for name in ("one", "two"))
    engine = DiffusersEngine(
        replace(shown, models=two, default="one"), models_root=ROOT, cache_dir=tmp_path, device="cpu", dtype="auto",
        max_batch=4, budget_bytes=1, tick=lambda: now[0],
    )  # fmt: skip
    asked = order(engine, 1, model="one", num_inference_steps=6)
    until(engine, lambda: bool(engine._lanes.lanes) and engine._lanes.lanes[0].turn == 2)
    other = order(engine, None, model="two")
    now[0] = 31.0
    until(engine, lambda: engine.residents.models == {"two"})
    assert engine._lanes.lanes[0].turn < 6
    picture, _ = drawn(engine, asked, other)
    same(picture, alone(engine, 1, model="one", num_inference_steps=6))
    engine.close()


@pytest.mark.parametrize("how", ["parts", "groups", "layers"])
def test_reference_with_a_model_in_turns_is_drawn_as_with_it_whole(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the processor, as in `test_placing.py`."""
    files = write_all(tiny.pipeline("sdxl").unet, tmp_path / "ip-adapter", "plus")
    engine, _ = engine_of("sdxl", tmp_path, monkeypatch)
    models = tuple(replace(spec, ip_adapter=files) for spec in engine._catalogue.models)
    engine._catalogue = replace(engine._catalogue, models=models)
    told: dict[str, Any] = {"model": "tiny", "sampler": "Default", "num_inference_steps": 2}
    expected = [alone(engine, picture, **told) for picture in (None, 1)]
    engine.close()
    engine._residents = None

    def place(pipe: Any, *_: Any) -> Plan:
        if how == "parts":
            pipe.enable_model_cpu_offload(device="cpu")
            return Plan(Mode.PARTS)
        plan = Plan(Mode.LAYERS if how == "layers" else Mode.GROUPS, ("vae",))
        if how == "groups":
            groups(pipe, "cpu", plan)
        else:
            for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
                accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=True)
        return plan

    monkeypatch.setattr(residents, "place_pipeline", place)
    for picture, one in zip((None, 1, None, 2), (*expected, expected[0], None), strict=True):
        drawing = alone(engine, picture, **told)
        if one is not None:
            assert apart(drawing, one) <= 1
    unet = engine.residents.use("tiny").pipe.unet
    assert how != "layers" or any(weight.device.type == "meta" for weight in unet.parameters())
    assert engine.residents.use("tiny").ip_adapter.size_bytes == 0
    engine.close()


def test_reference_whose_adapter_is_gone_fails_with_its_name_and_spares_the_others(
    shown: Catalogue, tmp_path: Path
) -> None:
    gone = replace(
        shown["pocket"], ip_adapter=replace(shown["pocket"].ip_adapter, weights=str(tmp_path / "x.safetensors"))
    )  # type: ignore[type-var]
    engine = DiffusersEngine(
        replace(shown, models=(gone,)), models_root=ROOT, cache_dir=tmp_path, device="cpu", dtype="auto", max_batch=4
    )
    failing, other = order(engine, 1), order(engine, None)
    while engine.busy:
        engine.turn()
    assert isinstance(error_of(failing), ModelError)
    assert "x.safetensors; correct its source in the models file" in str(error_of(failing))
    assert error_of(other) is None
    engine.close()


def test_locate_parts_adapter_without_one_of_its_files_is_none(tmp_path: Path) -> None:
    table = (
        '[models.m]\nname = "M"\nsource = "a/b"\nlicence = "-"\nfamily = "sd15"\nip_adapter = "ip/one.safetensors"\n'
    )
    catalogue = parse_catalogue(table, origin="the test")
    (tmp_path / "ip" / "image_encoder").mkdir(parents=True)
    assert locate_parts(catalogue, tmp_path)["m"].ip_adapter is None
    (tmp_path / "ip" / "one.safetensors").touch()
    found = locate_parts(catalogue, tmp_path)["m"].ip_adapter
    assert found is not None
    assert (found.weights, found.encoder) == (
        str(tmp_path / "ip" / "one.safetensors"),
        str(tmp_path / "ip" / "image_encoder"),
    )


def test_read_picture_of_another_size_is_made_the_encoders_own(engine: DiffusersEngine) -> None:
    alone(engine, 1)
    adapter = engine.residents.use("pocket").ip_adapter
    large, small = (raw(Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5), 50)) for side in (512, 64))
    one, other = (adapter.read(each, 0.6).towards.layers for each in (large, small))
    name = next(iter(one))
    assert one[name][0].shape == other[name][0].shape
