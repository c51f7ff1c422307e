"""Weights, blends and long prompts equal what the pipelines draw with Compel's own embeddings, beside lanes of plain words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import compel
import numpy as np
import pytest
import torch

from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.families.sd3 import StableDiffusion3
from bot.engine.families.unet import StableDiffusion
from bot.engine.lanes.samplers import build_scheduler
from bot.generation import GenerationRequest
from bot.prompts.weights import read_weights
from tests.unit.engine import tiny
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_diffusers_engine import pixels
from tests.unit.engine.test_lanes import asked, drawn, family, same
from tests.unit.engine.test_lanes import theirs as plainly

LONG = ", ".join(f"a house with {n} windows and a red door" for n in range(16))
SENTENCES = "A red house. It has a door, and windows. " * 6
CASES = {
    "weight": ("a (red:1.4) circle", "a (red)1.4 circle"),
    "less": ("a [red] circle", "a (red)0.9091 circle"),
    "much less": ("a (red:0.3) circle on (blue:0.6) ground", "a (red)0.3 circle on (blue)0.6 ground"),
    "not at all": ("a (red:0) circle", "a (red)0 circle"),
    "repeated": ("a red circle, a (red:0.4) circle, a red circle", "a red circle, a (red)0.4 circle, a red circle"),
    "signs": ("a red++ circle", "a (red)1.21 circle"),
    "nested": ("a (big (red:1.2) door:1.1)", "a (big )1.1(red)1.32( door)1.1"),
    "blend": ('("a red circle", "a blue square").blend(0.7, 0.3)', '("a red circle", "a blue square").blend(0.7, 0.3)'),
    "weighted blend": ('("a (red:0.5) circle", "a cat").blend(1, 0.5)', '("a (red)0.5 circle", "a cat").blend(1, 0.5)'),
}
WINDOWS = {
    "long": (LONG, LONG),
    "sentences": (SENTENCES, SENTENCES),
    "long and weaker": (f"{LONG}, a (green:0.5) hill", f"{LONG}, a (green)0.5 hill"),
    "long and stronger": (f"{LONG}, a (green:1.5) hill, {LONG}", f"{LONG}, a (green)1.5 hill, {LONG}"),
}


def compels(
    pipe: Any, tokenizer: str, encoder: str, text: str, *, penultimate: bool = False, window: int
) -> torch.Tensor:
    """What Compel makes of its own spelling of a prompt with one text encoder and one window."""
    library: Any = compel
    kinds = library.ReturnedEmbeddingsType
    kind = kinds.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED if penultimate else kinds.LAST_HIDDEN_STATES_NORMALIZED
    return library.Compel(
        tokenizer=getattr(pipe, tokenizer), text_encoder=getattr(pipe, encoder), returned_embeddings_type=kind, model_max_length=window
    )(text)  # fmt: skip


def pooled(pipe: Any, tokenizer: str, encoder: str, prompt: str) -> torch.Tensor:
    """What the pipeline's encoder says of a prompt as a whole: of its words, and of a blend the mean."""
    read = read_weights(prompt)
    network, words = getattr(pipe, encoder), getattr(pipe, tokenizer)
    made: list[torch.Tensor] = []
    for parts in read.prompts:
        text = "".join(part.text for part in parts)
        ids = words(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        given = network(ids)
        made.append(given.text_embeds if "text_embeds" in given else given.pooler_output)
    return sum(share * one for share, one in zip(read.shares, made, strict=True)) / sum(read.shares)  # type: ignore[operator]


def by_compel(drawer: Any, name: str, wanted: GenerationRequest, text: str) -> dict[str, Any]:
    """The arguments of the pipeline's call, made by Compel."""
    library: Any = compel
    pipe, negative = drawer.pipe, wanted.negative_prompt
    if name in ("sd15", "sd21"):
        made = library.CompelForSD(pipe)(text, negative_prompt=negative)
        return {"prompt_embeds": made.embeds, "negative_prompt_embeds": made.negative_embeds}
    if name == "sdxl":
        made = library.CompelForSDXL(pipe)(text, negative_prompt=negative)
        return {
            "prompt_embeds": made.embeds, "negative_prompt_embeds": made.negative_embeds,
            # Compel pools a prompt with its brackets and numbers; ours, the words alone.
            "pooled_prompt_embeds": pooled(pipe, "tokenizer_2", "text_encoder_2", wanted.prompt),
            "negative_pooled_prompt_embeds": made.negative_pooled_embeds,
        }  # fmt: skip
    if name == "flux-dev":
        embeds = compels(pipe, "tokenizer_2", "text_encoder_2", text, window=drawer.max_sequence_length)
        whole = pooled(pipe, "tokenizer", "text_encoder", wanted.prompt)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": whole}
    options: dict[str, Any] = {}
    for prefix, prompt, spelling in (("", wanted.prompt, text), ("negative_", negative, negative)):
        window = pipe.tokenizer_max_length
        short = torch.cat(
            [
                compels(pipe, f"tokenizer{which}", f"text_encoder{which}", spelling, penultimate=True, window=window)
                for which in ("", "_2")
            ],
            -1,
        )
        long = compels(pipe, "tokenizer_3", "text_encoder_3", spelling, window=drawer.max_sequence_length)
        short = torch.nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
        whole = [pooled(pipe, f"tokenizer{which}", f"text_encoder{which}", prompt) for which in ("", "_2")]
        options[f"{prefix}prompt_embeds"] = torch.cat([short, long], 1)
        options[f"{prefix}pooled_prompt_embeds"] = torch.cat(whole, -1)
    return options


@torch.inference_mode()
def theirs(drawer: Any, name: str, wanted: GenerationRequest, text: str) -> torch.Tensor:
    """The pipeline's own call with embeddings that Compel made of its own spelling."""
    pipe, own = drawer.pipe, drawer.pipe.scheduler
    options = by_compel(drawer, name, wanted, text)
    if name == "flux-dev":
        options["max_sequence_length"] = drawer.max_sequence_length
    pipe.scheduler = build_scheduler(wanted.sampler, own)
    try:
        return pipe(
            width=wanted.width, height=wanted.height, num_inference_steps=wanted.num_inference_steps,
            guidance_scale=wanted.guidance_scale, generator=torch.Generator().manual_seed(wanted.seed),
            output_type="latent", **options,
        ).images  # fmt: skip
    finally:
        pipe.scheduler = own


def wants(name: str, prompt: str) -> GenerationRequest:
    return asked(prompt, negative_prompt="" if name == "flux-dev" else "a blue house")


@pytest.mark.parametrize(("name", "case"), tiny.matrix(["sd15", "sd21", "sdxl", "sd3", "flux-dev"], list(CASES)))
def test_lane_with_weights_equals_the_pipeline_with_compels_embeddings_beside_plain_lanes(name: str, case: str) -> None:
    drawer = family(name)
    ours, spelling = CASES[case]
    wanted, plain = wants(name, ours), replace(wants(name, "a cat"), seed=9)
    weighted, beside = drawn(drawer, [wanted, plain], [1, 0])
    same(weighted, theirs(drawer, name, wanted, spelling))
    same(beside, drawn(drawer, [plain], [0])[0])


@pytest.mark.parametrize(("name", "case"), tiny.matrix(["sd15", "sdxl"], list(WINDOWS)))
def test_lane_of_several_windows_equals_the_pipeline_with_compels_embeddings(name: str, case: str) -> None:
    drawer = family(name)
    ours, spelling = WINDOWS[case]
    wanted = wants(name, ours)  # more tokens than a neighbour's: they would take turns
    same(drawn(drawer, [wanted], [0])[0], theirs(drawer, name, wanted, spelling))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev"])
def test_lane_with_plain_brackets_taken_away_is_the_plain_prompt(name: str) -> None:
    drawer = family(name)
    escaped, plain = wants(name, r"a \(red\) circle"), wants(name, "a (red circle")
    same(drawn(drawer, [escaped], [0])[0], plainly(drawer, replace(escaped, prompt="a (red) circle")))
    same(drawn(drawer, [plain], [0])[0], plainly(drawer, plain))


def test_embed_weight_of_one_is_what_the_pipeline_makes_of_the_words() -> None:
    drawer = family("sd15")
    assert isinstance(drawer, StableDiffusion)
    (reader,) = drawer.readers
    theirs = drawer.pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    assert torch.allclose(reader.embed(read_weights("a red circle")), theirs, atol=1e-6)


@pytest.mark.parametrize(
    "prompt",
    [
        "a [ ] cat", "a ( :0.5) cat", "[, ]", "<|endoftext|> (<|endoftext|>:0.5) a", "(cat<|endoftext|>:0.4) cat",
        "(é:0.2) [🎈] (a:0.5)(a:0.5) a a", LONG + "(!!!:0.5) !!!", "(" + LONG + ":0.5)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev"])
def test_embed_text_that_is_nowhere_or_like_a_mark_of_the_tokenizer_is_read(name: str, prompt: str) -> None:
    made = family(name).encode(wants(name, prompt)).words.tensors["encoder_hidden_states"]
    assert made.isfinite().all()


def test_embed_weakened_word_that_begins_a_window_is_the_one_that_is_masked() -> None:
    """SDXL's second tokenizer fills windows with "!": the first such token is not the one that was meant."""
    drawer = family("sdxl")
    assert isinstance(drawer, StableDiffusion)
    reader = drawer.readers[1]
    filled = replace(reader, tokenizer=_filling_with(reader.tokenizer, "!"))
    prompt = read_weights("A house with a red door and a garden. " + "(!:0.3)" + " red" * 24)
    windows: list[list[int]] = []
    network = filled.network

    def noting(ids: torch.Tensor, **options: Any) -> Any:
        mask = options.get("attention_mask")
        if mask is not None:
            windows.append([int(token) for token in ids[mask == 0]])
            assert (mask[0] == 1).all()  # its filling stays
        return network(ids, **options)

    replace(filled, network=noting).embed(prompt)
    assert windows == [filled.tokenizer("!", add_special_tokens=False).input_ids]


def _filling_with(tokenizer: Any, word: str) -> Any:
    import copy

    other = copy.deepcopy(tokenizer)
    other.pad_token = other.convert_ids_to_tokens(other(word, add_special_tokens=False).input_ids)[0]
    return other


class _Offloaded:
    """A text encoder whose weights lie on no device between two calls."""

    device = torch.device("meta")
    dtype = torch.float32

    def __init__(self, network: Any) -> None:
        self._network = network

    def __call__(self, *given: Any, **options: Any) -> Any:
        return self._network(*given, **options)


def test_embed_of_an_offloaded_encoder_stays_where_the_pipeline_computes() -> None:
    drawer = family("sd15")
    assert isinstance(drawer, StableDiffusion)
    (reader,) = drawer.readers
    prompt = read_weights("a (red:0.5) circle on (blue:1.3)")
    made = replace(reader, network=_Offloaded(reader.network)).embed(prompt)
    assert torch.equal(made, reader.embed(prompt))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev"])
def test_encode_with_parts_that_take_turns_is_what_it_is_without(name: str) -> None:
    wanted = wants(name, "a (red:0.5) circle on (blue:1.3)")
    before = family(name).encode(wanted).words.tensors
    drawer = family(name)
    drawer.pipe.enable_model_cpu_offload(device="cpu")
    after = drawer.encode(wanted).words.tensors
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_encode_prompts_of_different_lengths_share_one() -> None:
    drawer = family("sdxl")
    for prompt, negative in (("a circle", LONG), (LONG, "fog"), (LONG, ""), ("a (red:1.2) circle", LONG * 3)):
        made = drawer.encode(asked(prompt, negative_prompt=negative))
        assert made.away_from is not None
        assert made.words.shape == made.away_from.shape


def test_encode_sdxl_without_a_negative_prompt_is_guided_away_from_nothing_at_all() -> None:
    drawer = family("sdxl")
    drawer.pipe.register_to_config(force_zeros_for_empty_prompt=True)
    away = drawer.encode(asked("a (red:1.2) circle", negative_prompt="")).away_from
    assert away is not None
    assert not any(away.tensors[name].any() for name in ("encoder_hidden_states", "text_embeds"))


def test_encode_sd3_without_its_long_text_encoder_reads_weights() -> None:
    drawer = family("sd3")
    assert isinstance(drawer, StableDiffusion3)
    drawer.pipe.text_encoder_3 = None
    plain = drawer.encode(wants("sd3", "a red circle")).words
    weighted = drawer.encode(wants("sd3", "a (red:1.3) circle")).words
    assert plain.shape == weighted.shape
    assert not torch.equal(plain.tensors["encoder_hidden_states"], weighted.tensors["encoder_hidden_states"])


def test_pocket_more_of_a_colour_moves_the_picture(engine: DiffusersEngine) -> None:
    def picture(weight: float) -> np.ndarray:
        wanted = request(f"a (red:{weight}) circle on a white background", width=96, height=96, num_inference_steps=12,
                         guidance_scale=4.0, sampler="DDIM", seed=4)  # fmt: skip
        return pixels(engine.generate(wanted, Notes()).pictures[0]).astype(float)

    weak, plain, strong = picture(0.5), picture(1.0), picture(1.5)
    assert np.abs(strong - weak).mean() > 3
    redness = [float((image[..., 0] - image[..., 1:].mean(-1)).mean()) for image in (weak, plain, strong)]
    assert redness[0] < redness[2]
