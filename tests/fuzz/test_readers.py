"""Every reader of what strangers made, on what Hypothesis makes of it: no other error, no answer after 3 s, no growth."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors import safe_open
from safetensors.numpy import save

from bot.catalogue.models_file import parse_catalogue
from bot.engine.files import headers
from bot.engine.files.headers import read_header
from bot.engine.files.sources import index_components, wanted_files
from bot.engine.files.vetting import vet
from bot.errors import AttachmentRefused, ConfigError, ModelError
from bot.files import decode, decode_worker
from bot.provenance import facts, parse_easel, read_info
from bot.ui.info import picture_info
from tests.fuzz.makers import json_values, mutated, within_3_s
from tests.unit.files.test_decode import SOUND, animated
from tests.unit.rules.test_provenance import COMFY, COMFY_FLUX, FOREIGN, easel_text

SCALE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 16
"""The quick run takes a sixteenth of the header's limit, and allows a sixteenth of the growth."""
GROWTH_BYTES = (300 << 20) // SCALE
SPEC = parse_catalogue('[models.m]\nname = "M"\nsource = "a/b"\nfamily = "sd15"\nlicence = "MIT"\n', origin="a test")[
    "m"
]
MESSAGE_CHARS = 4000

# --- texts in pictures ---

KEYS = (*decode_worker.KEPT, "XML:com.adobe.xmp")
TEXTS = [
    "a fox\nNegative prompt: fog\nSteps: 9, Sampler: Euler a, CFG scale: 7, Seed: 3, Size: 64x48, Model: Dreamy",
    easel_text(), json.dumps(COMFY), json.dumps(COMFY_FLUX), f"prompt:{json.dumps(COMFY)}",
    *(text for case in FOREIGN.values() for text in (case[0] if isinstance(case, tuple) else case).values()),
]  # fmt: skip
texts_of_a_picture = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(
        st.text(max_size=300),
        mutated([text.encode() for text in TEXTS]).map(lambda data: data.decode("utf-8", "replace")),
        json_values.map(json.dumps),
        st.dictionaries(st.sampled_from(["prompt", "seed", "steps", "3", "6", "easel", "request", "sui_image_params", "uc", "scale", "positive_prompt", "model", "width"]), json_values).map(json.dumps),
        st.dictionaries(
            st.sampled_from("123456"),
            st.fixed_dictionaries({
                "class_type": st.one_of(st.sampled_from(["KSampler", "CLIPTextEncode", "SamplerCustomAdvanced", "ConditioningZeroOut"]), json_values),
                "inputs": st.dictionaries(
                    st.sampled_from(["positive", "negative", "guider", "latent_image", "seed", "steps", "cfg", "text", "model", "sampler", "sigmas", "noise"]),
                    st.one_of(json_values, st.tuples(st.sampled_from("123456"), st.integers(0, 2)).map(list)),
                ),
            }),
            max_size=6,
        ).map(json.dumps),
    ),
    max_size=4,
)  # fmt: skip


@given(texts_of_a_picture, st.text(max_size=300))
@example({"parameters": "x\nSteps: 1, " + " " * 100_000 + "x"}, "a.png")
@example({"prompt": "[" * 100_000}, "a.png")
@example({"invokeai_metadata": json.dumps({"seed": 1e400, "model": [1], "positive_prompt": {}})}, "\u202e")
def test_read_info_of_any_texts_gives_a_card_or_nothing(chunks: dict[str, str], name: str) -> None:
    info = within_3_s(lambda: read_info(chunks, (64, 48)))
    view = picture_info(name, info)
    shown = "".join(str(part.get("content", "")) for one in view.to_components() for part in one["components"])
    assert 0 < len(shown) <= MESSAGE_CHARS
    if info is not None:
        assert all(isinstance(value, str) and value for _, value in facts(info))
        assert len(info.prompt) <= 10_000


@given(
    st.one_of(json_values.map(json.dumps), mutated([easel_text().encode()]).map(lambda d: d.decode("utf-8", "replace")))
)
def test_parse_easel_of_any_text_gives_a_record_or_nothing(text: str) -> None:
    record = within_3_s(lambda: parse_easel(text))
    if record is not None:
        assert record.alone.count == 1


# --- pictures ---


@pytest.fixture(scope="module", autouse=True)
def _pillow_as_it_was() -> Iterator[None]:
    """The worker sets Pillow's limits for its own process; here it runs in this one."""
    names = ((Image, "MAX_IMAGE_PIXELS"), (PngImagePlugin, "MAX_TEXT_CHUNK"), (PngImagePlugin, "MAX_TEXT_MEMORY"))
    before = [(owner, name, getattr(owner, name)) for owner, name in names]
    yield
    for owner, name, value in before:
        setattr(owner, name, value)


PICTURES = [*(make() for make in SOUND.values()), animated("WEBP"), animated("PNG"), animated("GIF")]


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(mutated(PICTURES))
@settings(max_examples=settings().max_examples * 5)
def test_worker_read_of_mutated_pictures_answers_or_refuses(data: bytes) -> None:
    try:
        answer = within_3_s(lambda: decode_worker.read(data))
    except decode_worker.Refused as refusal:
        assert str(refusal) in decode._SENTENCES
        return
    width, height = answer["size"]
    assert width * height <= decode_worker.MAX_PIXELS
    read_info(json.loads(json.dumps(answer["texts"])), (width, height))


@given(mutated(PICTURES))
@settings(max_examples=max(4, settings().max_examples // 5))
def test_read_picture_info_of_mutated_pictures_raises_nothing_else(data: bytes) -> None:
    with contextlib.suppress(AttachmentRefused):
        decode.read_picture_info(data)


ANSWERS = st.one_of(
    json_values,
    st.fixed_dictionaries({}, optional={"size": json_values, "texts": json_values, "refused": json_values}),
    st.fixed_dictionaries({"size": st.lists(st.integers(-5, 7000), max_size=3), "texts": st.dictionaries(st.sampled_from(KEYS), json_values)}),
)  # fmt: skip


@given(ANSWERS)
def test_read_picture_info_of_any_answer_of_its_worker_raises_nothing_else(answer: Any) -> None:
    ask = decode._ask
    decode._ask = lambda *_, **__: (answer if isinstance(answer, dict) else {"refused": "broken"}, b"")  # type: ignore[assignment]
    try:
        decode.read_picture_info(b"a picture")
    except AttachmentRefused:
        pass
    finally:
        decode._ask = ask  # type: ignore[assignment]


# --- weights ---


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


WEIGHTS = [
    save({"a": numpy.zeros((2, 3), "float32"), "b": numpy.ones((4,), "float16")}, {"format": "pt"}),
    save({"a": numpy.zeros((0, 3), "int8"), "b": numpy.ones((), "float64")}),
    save({str(n): numpy.zeros((n,), "uint8") for n in range(40)}),
]  # fmt: skip
entries = st.fixed_dictionaries({
    "dtype": st.one_of(st.sampled_from([*headers.DTYPE_BITS]), json_values),
    "shape": st.one_of(st.lists(st.integers(0, 4), max_size=4), json_values),
    "data_offsets": st.one_of(st.tuples(st.integers(0, 16), st.integers(0, 16)).map(list), json_values),
})  # fmt: skip
written = st.tuples(
    st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), st.one_of(entries, json_values), max_size=3),
    st.integers(0, 24), st.one_of(st.none(), st.integers(0, 2**64 - 1)), st.integers(0, 9),
).map(lambda made: _written(*made))  # fmt: skip


def _written(header: dict[str, Any], data_bytes: int, length: int | None, spaces: int) -> bytes:
    text = json.dumps(header).encode() + b" " * spaces
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data_bytes)


@given(st.one_of(mutated(WEIGHTS), written, st.binary(max_size=64)))
@settings(max_examples=settings().max_examples * 5)
def test_read_header_of_any_bytes_refuses_or_agrees_with_the_library(place: Path, data: bytes) -> None:
    path = place / "fuzzed.safetensors"
    path.write_bytes(data)
    try:
        header = within_3_s(lambda: read_header(path))
    except ValueError as error:
        assert 0 < len(str(error)) < 200
        with pytest.raises(ModelError):
            vet(SPEC, path, None)
        return
    assert sum(tensor.size_bytes for tensor in header.tensors.values()) < len(data)
    if any(tensor.dtype in ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0") for tensor in header.tensors.values()):
        return  # the library knows them, its numpy side does not
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == set(header.tensors)
        for name in file.keys():  # noqa: SIM118  # no dictionary
            assert tuple(file.get_slice(name).get_shape()) == header.tensors[name].shape


@given(st.dictionaries(st.text(max_size=8), st.tuples(st.sampled_from(["float32", "int64", "uint8", "bool"]), st.lists(st.integers(0, 3), max_size=4)), max_size=6))  # fmt: skip
def test_read_header_takes_all_that_the_library_writes(place: Path, arrays: dict[str, tuple[str, list[int]]]) -> None:
    made = {name: numpy.zeros(shape, dtype) for name, (dtype, shape) in arrays.items() if name != headers.METADATA}
    path = place / "sound.safetensors"
    path.write_bytes(save(made))
    assert {name: tensor.shape for name, tensor in read_header(path).tensors.items()} == {
        name: array.shape for name, array in made.items()
    }


MIB = (1 << 20) // SCALE
HEADERS: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: b'{"a":[' + b"[]," * (2 * MIB) + b"[]]}",
    "empty objects": lambda: b'{"a":[' + b"{}," * (2 * MIB) + b"{}]}",
    "names": lambda: b"{" + b",".join(b'"%d":0' % n for n in range(600_000 // SCALE)) + b"}",
    "numbers": lambda: b'{"a":[' + b"1," * (3 * MIB) + b"1]}",
    "one long text": lambda: b'{"__metadata__":{"a":"' + b"\\u1234" * MIB + b'"}}',
    "beyond the limit": lambda: b'{"a":"' + b"x" * (64 * MIB) + b'"}',
    "spaces": lambda: b"{}" + b" " * (7 * MIB),
    "deep": lambda: b'{"a":' * MIB,
}


@pytest.mark.parametrize("make", HEADERS.values(), ids=HEADERS.keys())
def test_read_header_of_a_hostile_header_is_bounded(
    place: Path, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", headers.MAX_HEADER_BYTES // SCALE)
    text = make()
    path = place / "hostile.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    del text
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < GROWTH_BYTES
    finally:
        tracemalloc.stop()
    with contextlib.suppress(ValueError):
        within_3_s(lambda: read_header(path))


# --- a model's folder, and the catalogue ---

INDEXES = [(Path(__file__).resolve().parents[2] / "models" / "pocket" / "model_index.json").read_bytes()]


@given(
    st.one_of(mutated(INDEXES).map(lambda d: d.decode("utf-8", "replace")), json_values.map(json.dumps)),
    st.lists(st.one_of(st.text(max_size=30), st.sampled_from(["unet/a.safetensors", "unet/../b.json", "/unet/c.json", "unet/d-00001-of-00002.fp16.safetensors"])), max_size=6),
)  # fmt: skip
def test_index_components_of_any_index_names_folders_or_refuses(text: str, names: list[str]) -> None:
    try:
        parts = within_3_s(lambda: index_components(text))
    except ValueError:
        parts = ("unet",)
    assert all(part.isidentifier() for part in parts)
    assert all(".." not in Path(name).parts and not name.startswith("/") for name in wanted_files(names, parts, None))


@given(
    index=st.one_of(mutated(INDEXES), json_values.map(lambda value: json.dumps(value).encode())),
    config=st.one_of(json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60)),
    shards=st.one_of(json_values.map(lambda value: json.dumps({"weight_map": value}).encode()), st.binary(max_size=60)),
    weights=mutated(WEIGHTS),
)
def test_vet_of_any_folder_passes_or_names_the_model(
    place: Path, index: bytes, config: bytes, shards: bytes, weights: bytes
) -> None:
    folder = place / "model"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_bytes(index)
    (folder / "unet" / "config.json").write_bytes(config)
    (folder / "unet" / "model.safetensors.index.json").write_bytes(shards)
    (folder / "unet" / "model.safetensors").write_bytes(weights)
    try:
        within_3_s(lambda: vet(SPEC, folder, None))
    except ModelError as error:
        assert str(error).startswith("M: ")


CATALOGUES = [(Path(__file__).resolve().parents[2] / "models.toml").read_bytes()[6000:]]


@given(mutated([*CATALOGUES, *CATALOGUES]).map(lambda data: data.decode("utf-8", "replace")))
def test_parse_catalogue_of_any_text_gives_usable_models_or_names_what_is_wrong(text: str) -> None:
    try:
        found = within_3_s(lambda: parse_catalogue(text, origin="models.toml"))
    except ConfigError:
        return
    for spec in found.models:
        assert 0 < spec.default_size[0] <= 16_384


KEYS_OF_A_MODEL = st.dictionaries(
    st.sampled_from(["base_px", "size_multiple", "side_multiple", "min_side", "max_side", "max_pixels", "steps", "max_steps", "guidance", "max_guidance", "download_gb", "max_sequence_length"]),
    st.one_of(st.integers(-10, 3000), st.floats().map(float), st.integers(-(2**62), 2**62)),
)  # fmt: skip


@given(KEYS_OF_A_MODEL)
def test_parse_catalogue_of_any_numbers_gives_usable_models_or_names_the_key(values: dict[str, float]) -> None:
    head = '[models.m]\nname = "M"\nsource = "a/b"\nfamily = "sd15"\nlicence = "MIT"\n'
    lines = "".join(f"{key} = {value!r}\n" for key, value in values.items())
    try:
        spec = parse_catalogue(head + lines, origin="models.toml")["m"]
    except ConfigError as error:
        assert str(error).startswith("models.toml")
        return
    assert all(0 < side <= 16_384 * 2 for size in spec.sizes.values() for side in size)
    assert 1 <= spec.steps <= spec.max_steps
    assert 0 <= spec.guidance <= spec.max_guidance
