"""The texts in a picture file: ours out and back in, other programs' in."""

from __future__ import annotations

import dataclasses
import json
import random
import time
import xml.etree.ElementTree as ElementTree

import pytest

from bot import provenance
from bot.generation import GenerationRequest

REQUEST = GenerationRequest(
    prompt="a sunset, over\nthe sea", negative_prompt="fog, rain", model="pocket", width=64, height=96, count=3,
    num_inference_steps=20, guidance_scale=4.5, seed=40, sampler="DPM++ 2M Karras",
)  # fmt: skip


def test_parameters_text_is_what_other_programs_read() -> None:
    assert provenance.parameters_text(REQUEST, 42, "Pocket", "0.1.0") == (
        "a sunset, over\nthe sea\nNegative prompt: fog, rain\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 4.5, Seed: 42, Size: 64x96, Model: Pocket, Version: Easel 0.1.0"
    )


def test_parameters_text_name_with_a_comma_is_quoted_and_read_back() -> None:
    text = provenance.parameters_text(REQUEST, 1, 'Big, "odd": model', "0.1.0")
    info = provenance.parse_parameters(text)
    assert info is not None
    assert info.model == 'Big, "odd": model'


@pytest.mark.parametrize("negative", ["", "fog", "fog,\nsecond line"], ids=["none", "one line", "two lines"])
@pytest.mark.parametrize("prompt", ["a cat", "a cat,\n\nof: three, lines"], ids=["one line", "more"])
def test_parse_parameters_of_ours_gives_back_everything(prompt: str, negative: str) -> None:
    request = dataclasses.replace(REQUEST, prompt=prompt, negative_prompt=negative, guidance_scale=7.0)
    info = provenance.parse_parameters(provenance.parameters_text(request, 41, "Pocket", "0.1.0"))
    assert info is not None
    assert (info.prompt, info.negative_prompt) == (prompt, negative)
    assert (info.steps, info.sampler, info.guidance, info.seed) == (20, "DPM++ 2M Karras", 7.0, 41)
    assert (info.width, info.height, info.model, info.source) == (64, 96, "Pocket", "parameters")
    assert info.extra == (("Version", "Easel 0.1.0"),)


def test_easel_chunk_of_a_reference_draws_it_again_and_an_older_one_is_read() -> None:
    asked = dataclasses.replace(REQUEST, reference="d" * 64, reference_scale=0.8)
    text = provenance.easel_json(asked, 0, asked.seed, "job", "cpu", "fp32", "1")
    record = provenance.parse_easel(text)
    assert record is not None
    assert (record.request.reference, record.request.reference_scale) == ("d" * 64, 0.8)
    assert ("Reference", "a picture, scale 0.8") in provenance.picture_facts(record.request)
    assert "Reference scale: 0.8" in provenance.parameters_text(asked, asked.seed, "M", "1")
    older = json.loads(text)
    del older["request"]["reference"], older["request"]["reference_scale"]
    record = provenance.parse_easel(json.dumps(older))
    assert record is not None
    assert (record.request.reference, record.request.reference_scale) == ("", 1.0)
    assert "Reference" not in provenance.parameters_text(record.request, 1, "M", "1")
    older["request"]["reference"] = 3
    assert provenance.parse_easel(json.dumps(older)) is None


def test_easel_chunk_of_a_draft_draws_it_again_and_an_older_one_is_read() -> None:
    request = dataclasses.replace(REQUEST, quality="draft", guidance_end=0.5)
    text = provenance.easel_json(request, 1, 41, "j", "cpu", "fp32", "0.1.0")
    record = provenance.parse_easel(text)
    assert record is not None
    assert record.request == request
    assert "Quality: draft" in provenance.parameters_text(request, 41, "Pocket", "0.1.0")
    info = provenance.read_info({provenance.EASEL_KEY: text}, (64, 96))
    assert info is not None
    assert ("Quality", "draft") in info.extra
    older = json.loads(text)
    del older["request"]["quality"], older["request"]["guidance_end"]
    record = provenance.parse_easel(json.dumps(older))
    assert record is not None
    assert record.request == REQUEST
    older["request"]["quality"] = 3
    assert provenance.parse_easel(json.dumps(older)) is None


A1111 = """masterpiece, (sunset:1.2), <lora:thing:0.8>
second line
Negative prompt: blurry, bad hands,
more of it
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234567890, Size: 832x1216, \
Model hash: abcdef, Model: dreamy, Denoising strength: 0.4, Lora hashes: "thing: 123, other: 456", Version: v1.10.1"""


def test_parse_parameters_of_a1111_merges_sampler_and_schedule() -> None:
    info = provenance.parse_parameters(A1111)
    assert info is not None
    assert info.prompt == "masterpiece, (sunset:1.2), <lora:thing:0.8>\nsecond line"
    assert info.negative_prompt == "blurry, bad hands,\nmore of it"
    assert (info.sampler, info.steps, info.seed, info.guidance) == ("DPM++ 2M Karras", 25, 1234567890, 6.5)
    assert (info.width, info.height, info.model) == (832, 1216, "dreamy")
    assert ("Lora hashes", "thing: 123, other: 456") in info.extra


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Steps: 5, Sampler: Euler, Seed: 1", ("", "", 5)),
     ("a cat\nSteps: 5", ("a cat", "", 5)),
     ("a cat\nNegative prompt: dog", ("a cat", "dog", None)),
     ("a cat\r\nNegative prompt: dog\r\nSteps: 5, Size: 10x20\r\n", ("a cat", "dog", 5)),
     ("a cat\nNegative prompt:\nSteps: 5, Sampler: Euler a", ("a cat", "", 5)),
     ("Steps: up the hill, a cat\nSteps: 9, Seed: 3", ("Steps: up the hill, a cat", "", 9)),
     ("a cat\nSteps: x, Seed: y, Size: z", ("a cat\nSteps: x, Seed: y, Size: z", None, None))],
    ids=["settings alone", "short", "no settings", "crlf", "empty negative", "prompt like settings", "not numbers"],
)  # fmt: skip
def test_parse_parameters_of_odd_shapes_reads_what_is_there(text: str, expected: tuple[object, ...]) -> None:
    info = provenance.parse_parameters(text)
    if expected[1] is None:
        assert info is None or info.steps is None
    else:
        assert info is not None
        assert (info.prompt, info.negative_prompt, info.steps) == expected


def test_parse_parameters_of_plain_words_is_none() -> None:
    assert provenance.parse_parameters("a lovely day at the sea") is None


def easel_text() -> str:
    return provenance.easel_json(REQUEST, 2, 42, "job1", "cuda:0", "fp16", "0.1.0")


def test_easel_json_read_back_draws_the_same_picture() -> None:
    record = provenance.parse_easel(easel_text())
    assert record is not None
    assert record.request == REQUEST
    assert (record.n, record.seed, record.job_id, record.device, record.dtype) == (2, 42, "job1", "cuda:0", "fp16")
    assert record.alone == dataclasses.replace(REQUEST, seed=42, count=1)


def test_easel_json_does_not_tell_where_it_was_shown() -> None:
    request = dataclasses.replace(REQUEST, private=True, spoiler=True)
    assert provenance.easel_json(request, 2, 42, "job1", "cuda:0", "fp16", "0.1.0") == easel_text()


@pytest.mark.parametrize("field", ["prompt", "width", "seed", "guidance_scale"])
@pytest.mark.parametrize("value", [None, [], True, "x" if True else 0], ids=["null", "list", "truth", "text"])
def test_parse_easel_with_a_wrong_value_is_none(field: str, value: object) -> None:
    data = json.loads(easel_text())
    data["request"][field] = 5 if field == "prompt" else value
    assert provenance.parse_easel(json.dumps(data)) is None


def test_read_info_prefers_easel_over_parameters() -> None:
    info = provenance.read_info({"parameters": A1111, "easel": easel_text()}, (64, 96))
    assert info is not None
    assert (info.source, info.seed, info.prompt) == ("easel", 42, REQUEST.prompt)


def test_read_info_with_a_damaged_easel_falls_back_to_parameters() -> None:
    info = provenance.read_info({"parameters": A1111, "easel": "{"}, (64, 96))
    assert info is not None
    assert info.source == "parameters"


def test_read_info_without_a_size_takes_the_files() -> None:
    info = provenance.read_info({"UserComment": "a cat\nSteps: 4, Seed: 2"}, (640, 480))
    assert info is not None
    assert (info.width, info.height) == (640, 480)


def test_read_info_of_silence_is_none() -> None:
    assert provenance.read_info({}, (64, 64)) is None
    assert provenance.read_info({"Description": "holiday", "Comment": "with family"}, (64, 64)) is None


COMFY = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 99, "steps": 22, "cfg": 6.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "model": ["10", 0],
        "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dreamy.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 768, "height": 512, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["11", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "x", "model": ["4", 0], "clip": ["4", 1]}},
    "11": {"class_type": "PrimitiveString", "inputs": {"value": "a lighthouse"}},
}  # fmt: skip

COMFY_FLUX = {
    "13": {"class_type": "SamplerCustomAdvanced", "inputs": {
        "noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0], "sigmas": ["17", 0], "latent_image": ["5", 0]}},
    "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024}},
    "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "17": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 4, "model": ["12", 0]}},
    "22": {"class_type": "BasicGuider", "inputs": {"model": ["12", 0], "conditioning": ["26", 0]}},
    "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
    "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-schnell.safetensors"}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
}  # fmt: skip

FOREIGN = {
    "comfyui": ({"prompt": json.dumps(COMFY)}, "comfyui",
                ("a lighthouse", "fog", 22, "dpmpp_2m karras", 6.0, 99, 768, 512, "dreamy.safetensors")),
    "comfyui flux": ({"prompt": json.dumps(COMFY_FLUX)}, "comfyui",
                     ("a fox", "", 4, "euler", 3.5, 7, 1024, 1024, "flux1-schnell.safetensors")),
    "comfyui webp": ({"Make": "prompt:" + json.dumps(COMFY)}, "comfyui",
                     ("a lighthouse", "fog", 22, "dpmpp_2m karras", 6.0, 99, 768, 512, "dreamy.safetensors")),
    "invokeai": ({"invokeai_metadata": json.dumps({
        "positive_prompt": "a fox", "negative_prompt": "fog", "steps": 30, "scheduler": "euler", "cfg_scale": 7.5,
        "seed": 5, "width": 512, "height": 640, "model": {"name": "Dreamy"}})}, "invokeai",
        ("a fox", "fog", 30, "euler", 7.5, 5, 512, 640, "Dreamy")),
    "novelai": ({"Description": "a fox", "Comment": json.dumps({
        "uc": "fog", "steps": 28, "sampler": "k_euler", "scale": 5, "seed": 5})}, "novelai",
        ("a fox", "fog", 28, "k_euler", 5.0, 5, 11, 12, None)),
    "swarmui": ({"parameters": json.dumps({"sui_image_params": {
        "prompt": "a fox", "negativeprompt": "fog", "model": "Dreamy", "seed": 5, "steps": 20, "cfgscale": 7,
        "width": 512, "height": 512}})}, "swarmui", ("a fox", "fog", 20, None, 7.0, 5, 512, 512, "Dreamy")),
    "fooocus": ({"parameters": json.dumps({
        "prompt": "a fox", "negative_prompt": "fog", "base_model": "Dreamy", "seed": "5", "steps": 30,
        "guidance_scale": 4.0, "sampler": "dpmpp", "resolution": "(1152, 896)"})}, "fooocus",
        ("a fox", "fog", 30, "dpmpp", 4.0, 5, 1152, 896, "Dreamy")),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "source", "expected"), FOREIGN.values(), ids=FOREIGN.keys())
def test_read_info_of_other_programs_finds_their_parameters(
    chunks: dict[str, str], source: str, expected: tuple[object, ...]
) -> None:
    info = provenance.read_info(chunks, (11, 12))
    assert info is not None
    found = (info.prompt, info.negative_prompt, info.steps, info.sampler, info.guidance, info.seed)
    assert (*found, info.width, info.height, info.model) == expected
    assert info.source == source


def test_read_info_of_a_graph_that_bites_its_tail_ends() -> None:
    graph = {"1": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "model": ["1", 0], "seed": ["1", 0]}}}
    info = provenance.read_info({"prompt": json.dumps(graph)}, (8, 8))
    assert info is not None
    assert (info.prompt, info.seed) == ("", None)


HOSTILE = {
    "deep json": "[" * 100_000,
    "deep object": '{"a":' * 50_000,
    "keys without end": "a" * 500_000,
    "quotes": 'k: "' * 100_000,
    "escapes": 'Steps: 1, k: "' + '\\"' * 200_000,
    "colons": "Steps: 1" + ", a: b" * 100_000,
    "newlines": "\n" * 500_000,
    "huge numbers": "x\nSteps: " + "9" * 10_000 + ", Seed: " + "9" * 10_000 + ", CFG scale: 1e999, Size: 9x9",
    "nan": '{"prompt": "x", "seed": NaN, "steps": Infinity, "width": 1e400}',
    "wide graph": json.dumps({"1": {"class_type": "KSampler", "inputs": {str(i): ["1", i] for i in range(60_000)}}}),
}


@pytest.mark.parametrize("key", ["parameters", "easel", "prompt", "invokeai_metadata", "Comment"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_read_info_of_a_hostile_text_is_quick_and_bounded(key: str, text: str) -> None:
    start = time.perf_counter()
    info = provenance.read_info({key: text}, (8, 8))
    assert time.perf_counter() - start < 2.0
    if info is not None:
        assert len(info.prompt) <= 10_000
        assert sum(len(label) + len(value) for label, value in provenance.facts(info)) < 10_000


def test_read_info_of_mutated_texts_never_raises() -> None:
    rng = random.Random(11)
    sources = [A1111, easel_text(), json.dumps(COMFY), json.dumps(COMFY_FLUX), FOREIGN["fooocus"][0]["parameters"]]
    seen = 0
    for _ in range(1500):
        text = list(rng.choice(sources))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(4)] = rng.choice(['"', "{", "]", "\n", "\0", ":", "null", "1e999", "é", ""])
        key = rng.choice(["parameters", "easel", "prompt", "UserComment", "Comment", "invokeai_metadata"])
        info = provenance.read_info({key: "".join(text)}, (8, 8))
        seen += info is not None and isinstance(provenance.facts(info), list)
    assert seen > 100


def test_facts_lists_what_is_known_in_order() -> None:
    info = provenance.parse_parameters(A1111)
    assert info is not None
    facts = provenance.facts(info)
    assert facts[:6] == [
        ("Model", "dreamy"), ("Size", "832×1216"), ("Steps", "25"), ("Guidance", "6.5"),
        ("Sampler", "DPM++ 2M Karras"), ("Seed", "1234567890"),
    ]  # fmt: skip


SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.mark.parametrize(
    ("xmp", "found"),
    [
        (provenance.iptc_xmp("0.1.0", "a prompt"), f"{SOURCE}trainedAlgorithmicMedia"),
        (f"<x Iptc4xmpExt:DigitalSourceType='{SOURCE}digitalCapture'/>", f"{SOURCE}digitalCapture"),
        (f"<e:DigitalSourceType>\n {SOURCE}composite </e:DigitalSourceType>", f"{SOURCE}composite"),
        (f'<e:DigitalSourceType rdf:resource="{SOURCE}x"/>', f"{SOURCE}x"),
        ("<e:DigitalSourceType></e:DigitalSourceType>", None),
        (provenance.iptc_xmp("0.1.0").replace("DigitalSourceType", "Other"), None),
        ("", None),
    ],
    ids=["ours", "attribute", "element", "resource", "empty", "none", "no packet"],
)
def test_digital_source_type_is_read_in_every_way_xmp_writes_it(xmp: str, found: str | None) -> None:
    assert provenance.digital_source_type(xmp) == found


def test_iptc_xmp_carries_the_mark_and_any_prompt() -> None:
    xmp = provenance.iptc_xmp("0.1.0", 'a <b> & "c" \0 \ud800 🌅')
    root = ElementTree.fromstring(xmp[xmp.index("?>") + 2 : xmp.rindex("<?xpacket")])
    about = next(root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"))
    mark = about.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert mark == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert next(root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")).text == 'a <b> & "c"   🌅'
