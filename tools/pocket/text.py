"""The tokenizer, learned on captions, and the text encoder, taught what captions mean before anything is drawn.

The encoder learns by telling from its final hidden states what is in the picture. Small heads ask, each with a learned
query over all tokens; afterwards they are thrown away, and what they asked for is left in the tokens, where the UNet's
cross-attention reads it.
"""

import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .captions import named_caption
from .common_words import COMMON_WORDS
from .spec import (
    CHANCE_EXTRAS,
    COLOURS,
    EXTRAS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Arrangement,
    Picture,
    Scene,
    has_held_out,
    possible_extras,
    sample,
)

log = logging.getLogger("pocket")

MAX_TOKENS = 32
VOCABULARY = 1000
WIDTH = 128
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# Captions of these seeds are only read to measure; training counts up from 0.
UNSEEN = 10_000_000

_KINDS = (*SHAPES, *SUBJECTS)
_SIDES = ("first", "second")
# What is asked of a caption, and the possible answers; "" stands for "not said".
QUESTIONS: dict[str, tuple[str, ...]] = {
    "style": STYLES,
    "form": ("scene", "one", "two things", "2", "3", "4"),
    "place": PLACES,
    "time": TIMES,
    "weather": WEATHERS,
    **dict.fromkeys(EXTRAS, ("no", "yes")),
    "background": ("", *COLOURS),
    "relation": ("", "beside", "stacked"),
    **{f"{side} kind": _KINDS for side in _SIDES},
    **{f"{side} colour": ("", *COLOURS) for side in _SIDES},
    **{f"{side} size": SIZES for side in _SIDES},
}
NOT_ASKED = -100


# The tokenizer


def _bytes_of(text: str) -> list[str]:
    """The bytes of a text, each as the character that the byte-level tokenizer writes for it."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [char for piece, _ in byte_level.pre_tokenize_str(text) for char in piece]


def _alphabet() -> list[str]:
    """The bytes that lower-case UTF-8 can hold."""
    texts = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    texts += ["".join(chr(code) for code in range(0x80, 0x800, 32)), "\u0800\u1000\u2000\u3000\u4000\u5000\u6000\u7000"]
    texts += ["\u8000\u9000\ua000\ub000\uc000\ue000\uf000", "\ud7a3\U00010000\U00040000\U00080000\U000c0000\U00100000"]
    texts += ["".join(chr(code) for code in range(0x80, 0xC0))]
    return sorted({char for text in texts for char in _bytes_of(text)})


def _beginnings() -> set[str]:
    """The bytes after which another must come: no word ends with one."""
    return {char for char in _alphabet() if not char.isascii()} - {
        _bytes_of(chr(code))[-1] for code in range(0x80, 0xC0)
    }


def _corpus(captions: int) -> Iterator[str]:
    for seed in range(captions):
        yield named_caption(sample(seed), random.Random(seed))[0]
    yield from COMMON_WORDS
    # Every byte a word can end with, so that no character is unknown.
    yield " ".join(chr(code) for code in range(33, 127))
    yield " ".join(chr(code) for code in range(0x4E00, 0x4E40))


def learn_tokenizer(folder: Path, captions: int = 40_000) -> CLIPTokenizer:
    """Learn CLIP's byte-level BPE on captions and common words, save it to `folder` and return it as loaded."""
    # CLIPTokenizer brings normaliser and pre-tokeniser; only words and merges are learned.
    clip = CLIPTokenizer(vocab={BOS: 0, EOS: 1}, merges=[])
    tokenizer = Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix="</w>"))
    assert clip.backend_tokenizer.normalizer is not None
    tokenizer.normalizer = normalizers.Sequence([clip.backend_tokenizer.normalizer])
    tokenizer.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    alphabet = _alphabet()
    # Left alone, the trainer numbers the characters that end a word in no fixed order, and equal pairs are merged by
    # number. Given as special tokens they have theirs from the start, so that an encoder fits a tokenizer learned again.
    ends = [f"{char}</w>" for char in alphabet if char not in _beginnings()]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, *ends],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(captions), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learned["merges"]]
    CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=MAX_TOKENS).save_pretrained(folder)
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the tokenizer from `folder`."""
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Tokenize captions; returns int64 ids (rows, 32), with begin, end and padding."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


# What a caption means


def facts(picture: Picture, named: frozenset[str]) -> dict[str, str]:
    """Answer each of QUESTIONS that the caption of a picture answers.

    Arguments: `named` as `named_caption` gives it. Two things are told by where they are, the left or upper one first;
    where the caption does not relate them, in the order in which it names them.
    """
    what = picture.what
    if isinstance(what, Scene):
        answers = {"form": "scene", "place": what.place, "time": what.time, "weather": what.weather}
        shown = named | {extra for extra in what.extras if extra not in CHANCE_EXTRAS}
        answers |= {extra: "yes" if extra in shown else "no" for extra in EXTRAS}
    else:
        answers = _arrangement_facts(what, named)
    return {"style": picture.style, **answers}


def _arrangement_facts(what: Arrangement, named: frozenset[str]) -> dict[str, str]:
    form = str(what.count) if what.count > 1 else "two things" if len(what.items) == 2 else "one"
    answers = {"form": form, "background": what.background if "background" in named else ""}
    items = what.items
    if len(items) == 2:
        related = "relation" in named
        answers["relation"] = ("beside" if what.relation in ("left of", "right of") else "stacked") if related else ""
        if (what.relation in ("right of", "below")) if related else ("swapped" in named):
            items = items[::-1]
    for side, item in zip(_SIDES, items, strict=False):
        answers |= {f"{side} kind": item.kind, f"{side} size": item.size}
        answers[f"{side} colour"] = item.colour if "colour" in named else ""
    return answers


class Heads(nn.Module):
    """Answers to QUESTIONS from hidden states; a learned query for each gathers what it needs from all tokens."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(QUESTIONS), width) * width**-0.5)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.answers = nn.ModuleList(nn.Linear(width, len(answers)) for answers in QUESTIONS.values())

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """hidden: (rows, tokens, width); returns logits (rows, answers) for each question."""
        scores = self.queries @ self.keys(hidden).transpose(1, 2) * hidden.shape[-1] ** -0.5
        gathered = scores.softmax(dim=-1) @ self.values(hidden)
        return [answer(gathered[:, index]) for index, answer in enumerate(self.answers)]


def text_encoder_config(vocabulary: int) -> CLIPTextConfig:
    """The text encoder of the family: three layers of width 128."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


# Training


def worded(
    pictures: list[Picture], tokenizer: CLIPTokenizer, rng: random.Random, noise: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Word pictures; returns ids (rows, 32) and the answers (rows, questions), NOT_ASKED where there is none.

    A share `noise` of the captions gets a word thrown in that means nothing here.
    """
    texts, labels = [], []
    for picture in pictures:
        text, named = named_caption(picture, rng)
        if rng.random() < noise:
            words = text.split(" ")
            words.insert(rng.randint(0, len(words)), rng.choice(COMMON_WORDS))
            text = " ".join(words)
        told = facts(picture, named)
        texts.append(text)
        labels.append(
            [
                answers.index(told[question]) if question in told else NOT_ASKED
                for question, answers in QUESTIONS.items()
            ]
        )
    return tokens(tokenizer, texts), torch.tensor(labels)


def accuracies(encoder: CLIPTextModel, heads: Heads, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The share of right answers to each question; "all": of captions with no wrong one; "least": of the worst answer.

    A question to which only one answer occurs in `labels` tells nothing, and is left out.
    """
    device = next(encoder.parameters()).device
    with torch.no_grad():
        rows = [heads(encoder(part.to(device)).last_hidden_state) for part in ids.split(500)]
    chosen = torch.stack(
        [torch.cat([logits[i].argmax(-1).cpu() for logits in rows]) for i in range(len(QUESTIONS))], dim=1
    )
    right = (chosen == labels) | (labels == NOT_ASKED)
    shares, least = {}, 1.0
    for i, question in enumerate(QUESTIONS):
        answers = [answer for answer in labels[:, i].unique().tolist() if answer != NOT_ASKED]
        if len(answers) > 1:
            shares[question] = right[labels[:, i] != NOT_ASKED, i].float().mean().item()
            least = min(least, *(right[labels[:, i] == answer, i].float().mean().item() for answer in answers))
    return {"all": right.all(dim=1).float().mean().item(), "least": least, **shares}


def kept_pictures(count: int) -> list[Picture]:
    """Pictures with a combination kept for judging: unseen ones with another background or one more extra."""
    found: list[Picture] = []
    seed = UNSEEN
    while len(found) < count:
        rng, picture = random.Random(seed), sample(seed)
        seed += 1
        what = picture.what
        if isinstance(what, Scene):
            more = [extra for extra in possible_extras(what.place, what.time) if extra not in what.extras]
            what = Scene(
                what.place, what.time, what.weather, tuple(sorted((*what.extras, *rng.sample(more, min(1, len(more))))))
            )
        else:
            background = rng.choice([name for name in COLOURS if all(name != item.colour for item in what.items)])
            what = Arrangement(background, what.items, what.relation, what.count)
        changed = Picture(what, picture.style, picture.seed)
        if has_held_out(changed):
            found.append(changed)
    return found


def train_text_encoder(
    folder: Path, device: str = "cpu", steps: int = 2400, batch: int = 128, seed: int = 0, checked: int = 4000
) -> dict[str, float]:
    """Teach the text encoder what captions mean and save it to `folder`/text_encoder.

    Arguments: `folder` holds tokenizer/; `checked` unseen captions are asked at the end.
    Returns: "steps", "loss", "seconds", the accuracies on unseen captions, "kept" for combinations kept for judging.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(folder / "tokenizer")
    encoder = CLIPTextModel(text_encoder_config(len(tokenizer)))
    encoder.to(torch.device(device))  # type: ignore[arg-type]
    heads = Heads().to(device)
    loss = _learn(encoder, heads, tokenizer, steps, batch, seed)
    encoder.eval().save_pretrained(folder / "text_encoder")
    figures = {"steps": float(steps), "loss": loss}
    if checked:
        unseen = [sample(UNSEEN + index) for index in range(checked)]
        figures |= accuracies(encoder, heads, *worded(unseen, tokenizer, random.Random(UNSEEN)))
        kept = worded(kept_pictures(checked // 4), tokenizer, random.Random(UNSEEN + 1))
        figures["kept"] = accuracies(encoder, heads, *kept)["all"]
    return figures | {"seconds": time.monotonic() - started}


def _learn(encoder: CLIPTextModel, heads: Heads, tokenizer: CLIPTokenizer, steps: int, batch: int, seed: int) -> float:
    """Train in place for `steps`; returns the loss of the last tenth."""
    device = next(encoder.parameters()).device
    rng = random.Random(f"text {seed}")
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = min(100, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))),
    )
    losses: list[float] = []
    for step in range(steps):
        pictures = [sample(step * batch + index) for index in range(batch)]
        ids, labels = worded(pictures, tokenizer, rng, noise=0.1)
        if step < steps * 0.7:
            # Attention is causal, so padding changes nothing before it; the short rows save half of the time.
            ids = ids[:, : int((ids != 1).sum(dim=1).max()) + 2]
        logits = heads(encoder(ids.to(device)).last_hidden_state)
        answers = labels.to(device)
        loss = sum(
            (
                nn.functional.cross_entropy(of, answers[:, i], ignore_index=NOT_ASKED, reduction="sum")
                for i, of in enumerate(logits)
            ),
            start=torch.zeros((), device=device),
        )
        loss = loss / batch
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*encoder.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            log.info("text encoder: step %d of %d, loss %.4f", step + 1, steps, sum(losses[-100:]) / 100)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)
