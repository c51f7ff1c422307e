"""Textual inversions: what is encoded with them equals diffusers' own pipeline with `load_textual_inversion`."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bot.catalogue.addons import AddOn
from bot.engine.conditioning.embeddings import knowing, load_embedding
from bot.engine.families import family_of
from bot.errors import ModelError
from tests.unit.engine import tiny
from tests.unit.engine.test_lanes import asked

PROMPT = "a <fluff> cat and a dog"


def pipeline(name: str) -> Any:
    """A tiny pipeline with tokenizers of its own, since they learn."""
    pipe = tiny.pipeline(name)
    for part in ("tokenizer", "tokenizer_2"):
        if getattr(pipe, part, None) is not None:
            setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
    return pipe


def beside(name: str) -> Any:
    pipe = pipeline(name)
    return SimpleNamespace(spec=SimpleNamespace(id="tiny", name="Tiny"), pipe=pipe, embeddings={})


def written(path: Path, name: str, width: int = 32) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    names = ("clip_l", "clip_g") if name == "sdxl" else ("emb_params",)
    state = {key: torch.randn(3, width) for key in names}
    save_file(state, path)
    return path, state


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_words_taught_equal_the_pipelines_own(name: str, tmp_path: Path) -> None:
    path, state = written(tmp_path / "fluff.safetensors", name)
    loaded = beside(name)
    load_embedding(loaded, AddOn("fluff", str(path), "unet"), path)
    found: Any = family_of(loaded.pipe)
    wanted = asked(PROMPT, negative_prompt="<fluff> dog")
    with torch.inference_mode(), knowing(loaded.pipe, list(loaded.embeddings.values())):
        ours = found(loaded.pipe).encode(wanted)
    theirs = pipeline(name)
    if name == "sdxl":
        theirs.load_textual_inversion(
            state["clip_l"], token="<fluff>", text_encoder=theirs.text_encoder, tokenizer=theirs.tokenizer
        )
        theirs.load_textual_inversion(
            state["clip_g"], token="<fluff>", text_encoder=theirs.text_encoder_2, tokenizer=theirs.tokenizer_2
        )
    else:
        theirs.load_textual_inversion(state["emb_params"], token="<fluff>")
    with torch.inference_mode():
        expected = found(theirs).encode(wanted)
    assert ours.away_from is not None
    assert expected.away_from is not None
    for own, other in ((ours.words, expected.words), (ours.away_from, expected.away_from)):
        for key, tensor in other.tensors.items():
            assert torch.allclose(own.tensors[key], tensor, atol=1e-6), key


def test_prompts_without_the_word_are_encoded_as_before(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "fluff.safetensors", "sd15")
    loaded = beside("sd15")
    found: Any = family_of(loaded.pipe)
    with torch.inference_mode():
        before = found(loaded.pipe).encode(asked("a cat")).words.tensors["encoder_hidden_states"]
        load_embedding(loaded, AddOn("fluff", str(path), "unet"), path)
        after = found(loaded.pipe).encode(asked("a cat")).words.tensors["encoder_hidden_states"]
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("name", "width", "words"), [("sd15", 48, "it is 48 wide, and the model's words are 32"), ("sdxl", 48, "48 wide")]
)
def test_load_embedding_of_another_width_is_refused_with_its_name(
    name: str, width: int, words: str, tmp_path: Path
) -> None:
    path, _ = written(tmp_path / "fluff.safetensors", name, width)
    with pytest.raises(ModelError, match=f"The embedding fluff does not suit Tiny.*{words}"):
        load_embedding(beside(name), AddOn("fluff", str(path), "unet"), path)


def test_load_embedding_for_another_number_of_encoders_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "fluff.safetensors", "sdxl")
    with pytest.raises(ModelError, match="another number of text encoders"):
        load_embedding(beside("sd15"), AddOn("fluff", str(path), "unet"), path)
