"""The model card, `models/pocket/README.md`: what was made, from what, for how long, and how good it is. Nothing in it is typed by hand
that was measured."""

import json
from pathlib import Path
from typing import Any

from tools.pocket.detector import FOLDER
from tools.pocket.saving import size_bytes
from tools.pocket.spec import PLACES, SHAPES, STYLES, SUBJECTS, TIMES, WEATHERS
from tools.pocket.stages import STAGES

Figures = dict[str, Any]

# What issue 3 asks of a family trained on a GPU, and of one trained on two cores, in shares; None is "reported".
TARGETS: dict[str, tuple[float, float | None]] = {
    "colour of shape and background": (0.97, 0.92),
    "shape": (0.95, 0.85),
    "two-object relation": (0.85, None),
    "scene and time of day": (0.97, 0.92),
    "extras (moon, boat, house)": (0.90, 0.70),
}

TITLES = {
    "text_encoder": "text encoder: what captions mean",
    "vae": "autoencoder",
    "unet": "denoiser and text encoder",
    "decoder": "decoder, sharpened",
    "tuning": "denoiser and text encoder, tuned on small and seldom things",
    "inpainting": "inpainting variant",
    "controlnet-edges": "ControlNet for edges",
    "controlnet-scribble": "ControlNet for scribbles",
    "lora-chalk": "LoRA, a style: `chalk drawing`",
    "lora-easelbot": "LoRA, an object: `easelbot`",
    "inversion": "textual inversion: `<sketchbook>`",
    "distil": "LoRA for four steps without guidance",
    "upscaler": "4× upscaler",
    "tiny_vae": "tiny autoencoder for previews",
    "sdxl": "SDXL sibling",
    "captioner": "captioner",
}

INSIDE = ("decoder", "tuning")
"""Stages whose weights lie in pocket's folder, and are counted there."""

INTRODUCTION = """\
# Pocket

A Stable Diffusion small enough for two CPU cores, and its family. It draws landscapes by place, hour and weather, coloured
shapes and things, alone, counted and in relation, in six styles, at {size} and sizes from 64 to 256. Easel's demo and tests draw
with it. Every weight here was learned from pictures drawn by a program (`tools/pocket/`): there is no third-party data in it, and
it may be used under Easel's licence (MIT).

![Pictures by pocket](contact-sheet.png)

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("models/pocket", torch_dtype="float32")
drawn = pipe("a lighthouse by the sea at sunset", width=128, height=128, num_inference_steps=20, guidance_scale={guidance})
drawn.images[0].save("sea.png")
```

`make pocket` makes all of it anew from nothing, on a GPU where there is one, and writes this card.
"""

DATA = """\
## Data

Pictures are drawn from seeds: {places} places ({place_names}), {times} times of day, {weathers} kinds of weather, named extras (moon, boat, house,
lighthouse, palm tree and others), {shapes} shapes and {subjects} subjects in nine colours, six styles. Captions are worded anew each time a
picture is used, with paraphrase. About an eighth of the combinations (colour, shape, background) and (place, time, extra) are
kept for judging and never drawn for the text encoder or any denoiser (`spec.held_out`); those of neon lights are exempt, for
there is one place for them. The autoencoder, which sees no words, saw pictures of nine kept combinations of landscapes
before their choice was final. The captions of the other half of the judge's questions are of kinds that occur in training, and some may have occurred word
for word.
"""

JUDGING = """\
## Evaluation

{questions} prompts with fixed seeds, 20 steps, read by our own detector (`tools/pocket/detector`), which reads {detector:.1%} or more of each kind of
thing right in real drawings. "Held out" are the questions whose combination never occurs in training. The Fréchet
distances are FID-like, on features of our own (`tools/pocket/distance.py`), and compare with no published FID.
"""


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _made(figures: dict[str, Any], models: Path) -> list[str]:
    lines = ["## What there is", "", "| member | folder | MB | steps | minutes | loss, first to last | on |"]
    lines.append("|---|---|---|---|---|---|---|")
    for stage in STAGES:
        training = figures.get(stage.name, {}).get("training")
        if training is None:
            lines.append(f"| {TITLES[stage.name]} | not made yet | | | | | |")
            continue
        folder = f"`models/{stage.folder}`" if stage.folder else ""
        size = f"{size_bytes(models / stage.folder) / 1e6:.1f}" if stage.folder and stage.name not in INSIDE else ""
        minutes = training.get("minutes", round(training.get("seconds", 0) / 60, 1))
        first, last = training.get("loss_first"), training.get("loss_last", training.get("loss"))
        losses = " → ".join(f"{value:.4f}" for value in (first, last) if value is not None)
        on = "GPU" if training.get("device") == "cuda" else "CPU, one or two cores"
        lines.append(
            f"| {TITLES[stage.name]} | {folder} | {size} | {training.get('steps', '')} | {minutes} | {losses} | {on} |"
        )
    total = sum(size_bytes(folder) for folder in models.glob("pocket*"))
    return [
        *lines,
        "",
        f"Together {total / 1e6:.1f} MB of fp16 safetensors. Losses of different members do not compare.",
    ]


def judged_table(evaluation: Figures) -> list[str]:
    """What the judge found, row by row, with the targets of issue 3 beside it."""
    lines = [
        "| measured | right | held out | questions | target, GPU | target, two cores |",
        "|---|---|---|---|---|---|",
    ]
    for row, found in evaluation["measured"].items():
        gpu, cpu = TARGETS.get(row, (None, None))
        asked = f"{found['questions']} ({found['questions_held_out']})"
        lines.append(
            f"| {row} | {_share(found['right'])} | {_share(found['right_held_out'])} | {asked} | {_share(gpu)} | {_share(cpu)} |"
        )
    lines += [f"| {name} | {value:g} | | | | |" for name, value in evaluation["distances"].items()]
    return lines


def weak(evaluation: Figures, device: str) -> list[str]:
    """Name the rows of a judged member that miss their target, over all questions or those held out."""
    found: list[str] = []
    for row, targets in TARGETS.items():
        target = targets[0] if device == "cuda" else targets[1]
        measured = evaluation["measured"].get(row)
        if target is None or measured is None:
            continue
        worst = min(share for share in (measured["right"], measured["right_held_out"]) if share is not None)
        if worst < target:
            found.append(f"{row}: {worst:.1%} where {target:.0%} is asked")
    return found


def card(models: Path, figures: dict[str, Any], *, size: str, guidance: float) -> str:
    """Write the card's text from what the stages found (`evaluation.read_figures`) and the weights in `models`."""
    detector = json.loads((FOLDER / "detector.json").read_text())["drawings"]
    least = min(value for key, value in detector.items() if "bad weather" not in key and " seen" not in key)
    lines = [INTRODUCTION.format(size=size, guidance=f"{guidance:g}"), *_made(figures, models), ""]
    lines.append(
        DATA.format(
            places=len(PLACES),
            place_names=", ".join(PLACES),
            times=len(TIMES),
            weathers=len(WEATHERS),
            shapes=len(SHAPES),
            subjects=len(SUBJECTS),
        )
    )
    assert len(STYLES) == 6
    pocket = figures.get("tuning", {}).get("evaluation")
    if pocket:
        lines += [JUDGING.format(questions=500, detector=least), "### pocket", "", *judged_table(pocket), ""]
        lines.append(f"One picture in 20 steps on {pocket['threads']} threads: {pocket['seconds a picture']} s.")
    for name, title in TITLES.items():
        evaluation = figures.get(name, {}).get("evaluation")
        if evaluation is None or name == "tuning":
            continue
        lines += ["", f"### {title}", ""]
        rest = evaluation
        if "measured" in evaluation:
            lines += [*judged_table(evaluation), ""]
            rest = {key: value for key, value in evaluation.items() if key not in ("measured", "distances")}
        lines += [f"- {key.replace('_', ' ')}: {_figure(value)}" for key, value in rest.items()]
    lines += ["", "## What is weak", "", *_weaknesses(figures)]
    return "\n".join(lines).rstrip() + "\n"


OWN_MARKS: tuple[tuple[str, str, float], ...] = (
    ("controlnet-edges", "f1", 0.7),
    ("controlnet-scribble", "f1", 0.7),
    ("lora-chalk", "with", 0.8),
    ("lora-easelbot", "with", 0.8),
    ("inversion", "with", 0.5),
    ("captioner", "exact", 0.6),
    ("captioner", "both things", 0.6),
)
"""Member, figure, and the share below which we call it weak; issue 3 sets none for these."""


def _below_own_marks(figures: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, key, least in OWN_MARKS:
        found = figures.get(name, {}).get("evaluation", {})
        if key in found and found[key] < least:
            without = f", and {found[key + '_without']:.1%} without it" if key + "_without" in found else ""
            lines.append(f"- {TITLES[name]}: {key} {found[key]:.1%}{without}, where we would want {least:.0%}")
    tiny = figures.get("tiny_vae", {}).get("evaluation")
    if tiny and tiny["error"] > 2 * tiny["error_full"]:
        lines.append(
            f"- {TITLES['tiny_vae']}: {tiny['error']:g} of 255 from the picture, the full one {tiny['error_full']:g}"
        )
    return lines


def _weaknesses(figures: dict[str, Any]) -> list[str]:
    lines = _below_own_marks(figures)
    for name, entry in figures.items():
        if "measured" in entry.get("evaluation", {}):
            lines += [f"- {name}: {line}" for line in weak(entry["evaluation"], entry["training"]["device"])]
    missing = [TITLES[stage.name] for stage in STAGES if stage.name not in figures]
    if missing:
        lines.append(f"- not made yet: {', '.join(missing)}; `make pocket` makes them")
    return lines or ["Nothing misses its target."]
