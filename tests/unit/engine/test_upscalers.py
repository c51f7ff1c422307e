"""Networks that enlarge: what is loaded and what is refused by name, tiles without seams, edges better than resizing."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bot.catalogue.models import UpscalerSpec
from bot.engine.devices import choose_device
from bot.engine.upscaling import upscalers
from bot.engine.upscaling.mosaic import Mosaic
from bot.engine.upscaling.upscalers import BUILT_IN, Upscaler, installed, load_upscaler
from bot.errors import ModelError
from bot.prompts.upscaling import OVERLAP_PX, TILE_PX, cuts
from tools.pocket.upscaler import Upscaler as Network
from tools.pocket.upscaler import pair, save_upscaler

DEVICE = choose_device("cpu", "fp32")


@pytest.fixture(scope="module")
def network() -> Upscaler:
    return load_upscaler(UpscalerSpec("pocket-4x", str(BUILT_IN)), DEVICE)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return -10 * math.log10(float(np.square(one - other).mean()))


def test_import_of_spandrel_leaves_no_stand_in_behind(network: Upscaler) -> None:
    assert network.scale == 4
    assert "spandrel" in sys.modules
    found = sys.modules.get("torchvision")
    assert found is None or getattr(found, "__file__", None)


def test_installed_lists_the_operators_own_first_and_refuses_pickles_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b-2x.safetensors", "a-4x.safetensors", "old.pth", "notes.txt", "._a-4x.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    assert [spec.name for spec in installed(tmp_path)] == ["a-4x", "b-2x", "pocket-4x"]
    assert "old.pth is a pickle" in caplog.text
    assert "docs/upscalers.md" in caplog.text
    assert [spec.name for spec in installed(tmp_path / "none")] == ["pocket-4x"]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".zip"])
def test_load_upscaler_that_is_no_safetensors_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"  # not even there: nothing is opened
    with pytest.raises(ModelError, match=r"refused unread|no \.safetensors file") as caught:
        load_upscaler(UpscalerSpec("net", str(path)), DEVICE)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x02" + b"x" * 30, "pickle under another name"),
        (struct.pack("<Q", 1 << 40) + b"{}", "no safetensors file"),
        (b"", "cut off"),
    ],
    ids=["pickle", "huge header", "empty"],
)
def test_load_upscaler_damaged_or_disguised_is_refused_with_its_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "net.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=words) as caught:
        load_upscaler(UpscalerSpec("net", str(tmp_path / "net.safetensors")), DEVICE)
    assert "net.safetensors" in str(caught.value)


def test_load_upscaler_of_unknown_kind_or_without_a_scale_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="of no kind that Spandrel knows"):
        load_upscaler(UpscalerSpec("a", str(tmp_path / "a.safetensors")), DEVICE)
    state = load_file(BUILT_IN)
    last = max(int(name.split(".")[1]) for name in state)
    for name in ("weight", "bias"):
        state[f"body.{last}.{name}"] = state[f"body.{last}.{name}"][:3].clone()
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(ModelError, match="enlarges nothing"):
        load_upscaler(UpscalerSpec("one", str(tmp_path / "one.safetensors")), DEVICE)
    with pytest.raises(ModelError, match="cannot be read"):
        load_upscaler(UpscalerSpec("b", str(tmp_path / "b.safetensors")), DEVICE)


def test_enlarge_less_than_the_network_is_its_output_reduced_by_area(network: Upscaler) -> None:
    pixels = torch.rand(20, 28, 3)
    four, two = network.enlarge(pixels, 4), network.enlarge(pixels, 2)
    assert (tuple(four.shape), tuple(two.shape)) == ((80, 112, 3), (40, 56, 3))
    assert torch.allclose(two, four.reshape(40, 2, 56, 2, 3).mean((1, 3)), atol=1e-5)


@pytest.mark.parametrize(("scale", "factor"), [(2, 4), (3, 2), (3, 4)])
def test_enlarge_by_a_network_of_another_scale_has_the_size_asked_for(tmp_path: Path, scale: int, factor: int) -> None:
    net = Network(8, 1)
    net.body[-1] = torch.nn.Conv2d(8, 3 * scale * scale, 3, padding=1)
    save_upscaler(net, tmp_path / "net.safetensors")
    loaded = load_upscaler(UpscalerSpec("net", str(tmp_path / "net.safetensors")), DEVICE)
    assert loaded.scale == scale
    assert tuple(loaded.enlarge(torch.rand(12, 20, 3), factor).shape) == (12 * factor, 20 * factor, 3)


@torch.inference_mode()
def test_enlarge_beats_bicubic_and_lanczos_on_the_truth(network: Upscaler) -> None:
    ours, others = [], {Image.Resampling.BICUBIC: [], Image.Resampling.LANCZOS: []}
    for seed in range(9_000_000, 9_000_008):
        truth, _ = pair(seed)
        low = Image.fromarray(truth).resize((128, 128), Image.Resampling.BICUBIC)
        want = truth / 255.0
        ours.append(psnr(network.enlarge(torch.from_numpy(np.asarray(low) / np.float32(255)), 4).numpy(), want))
        for how, found in others.items():
            found.append(psnr(np.asarray(low.resize((512, 512), how)) / 255.0, want))
    print({"network": np.mean(ours)}, {how.name: np.mean(found) for how, found in others.items()})
    assert all(np.mean(ours) > np.mean(found) + 0.3 for found in others.values())


def test_mosaic_of_one_picture_cut_up_is_that_picture() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (150, 333, 3), dtype=np.uint8)
    mosaic = Mosaic(cuts(333, 64, 24), cuts(150, 64, 24))
    for n in rng.permutation(len(mosaic.places)):
        left, top, width, height = mosaic.box(n)
        mosaic.put(n, picture[top : top + height, left : left + width] / 255)
    assert np.array_equal(mosaic.pixels(), picture)


@torch.inference_mode()
def test_tiles_of_a_network_have_no_seams(network: Upscaler) -> None:
    truth, _ = pair(5)
    small = torch.from_numpy(np.array(Image.fromarray(truth).resize((400, 330)))).float() / 255
    whole = network.enlarge(small, 2).clamp(0, 1).numpy() * 255
    columns, rows = cuts(400, TILE_PX, OVERLAP_PX), cuts(330, TILE_PX, OVERLAP_PX)
    mosaic = Mosaic(columns.times(2), rows.times(2))
    for n in range(len(mosaic.places)):
        left, top, width, height = (side // 2 for side in mosaic.box(n))
        mosaic.put(n, network.enlarge(small[top : top + height, left : left + width], 2).numpy())
    assert len(mosaic.places) == 4
    assert np.abs(mosaic.pixels() - whole).max() <= 2


def test_refusal_of_a_pickle_names_the_document_that_is_there() -> None:
    assert (Path(__file__).resolve().parents[3] / "docs" / "upscalers.md").is_file()
    assert "docs/upscalers.md" in upscalers.refusal(Path("x.pth"))
