"""What makes a denoiser faster on a machine, and which of it is on. Pure: no torch.

A lever changes how a pass is computed, never what is drawn: with any of them a picture alone, in a batch and in diffusers' own
pipeline stays the same within rounding. On is what was measured to pay on a CPU and is advised for CUDA (`make bench-engine` has
an arm for each); the others are for the operator to switch on (EASEL_LEVERS) once that bench has shown that they pay on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

AUTO, NONE = "auto", "none"
_IN_TURNS = "the model's parts take turns on the GPU"


@dataclass(frozen=True, slots=True)
class Levers:
    """Which levers are on.

    `channels_last`: convolutions on (rows, h, w, channels). `fused`: one projection for queries, keys and values.
    `cudnn`: cuDNN's attention before torch's own choice. `compile`: by torch.compile, a UNet whole, a transformer by its repeated
    blocks. `graphs`: a pass replayed as one CUDA graph. The last two need shapes that repeat, so rows are padded to a few sizes.
    """

    channels_last: bool = False
    fused: bool = False
    cudnn: bool = False
    compile: bool = False
    graphs: bool = False

    @property
    def pads(self) -> bool:
        """Whether rows are padded."""
        return self.compile or self.graphs

    def __str__(self) -> str:
        """As EASEL_LEVERS takes it."""
        return ",".join(name for name in NAMES if getattr(self, name)) or NONE


NAMES = tuple(item.name for item in fields(Levers))
"""As `bot.config.LEVERS` has them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The levers for a model on a machine, and in words why."""

    levers: Levers
    why: str


def choose_levers(asked: str, *, device: str, convolves: bool, whole: bool, can_compile: bool = True) -> Choice:
    """Choose the levers for one model. Pure.

    `asked` is EASEL_LEVERS as the settings have it; `device` cpu, cuda or mps; `convolves` that the denoiser is a UNet;
    `whole` that the model is on the device whole; `can_compile` that there is a compiler for the device.
    """
    if asked == AUTO:
        return _by_itself(device, convolves=convolves)
    wanted = Levers(**dict.fromkeys(asked.split(","), True)) if asked != NONE else Levers()
    cannot = {
        "channels_last": "" if convolves else "the denoiser has no convolutions",
        "cudnn": "" if device == "cuda" else "it needs CUDA",
        "graphs": _first(device == "cuda" or "it needs CUDA", whole or _IN_TURNS),
        "compile": _first(can_compile or "there is no compiler here", whole or _IN_TURNS),
    }
    why = ["as EASEL_LEVERS says"]
    for name, reason in cannot.items():
        if reason and getattr(wanted, name):
            wanted = replace(wanted, **{name: False})
            why.append(f"without {name}: {reason}")
    return Choice(wanted, "; ".join(why))


def _by_itself(device: str, *, convolves: bool) -> Choice:
    if not convolves:
        return Choice(
            Levers(), "no convolutions to arrange; the other levers wait for a measurement on this kind of machine"
        )
    if device == "mps":
        return Choice(Levers(), "nothing was measured on Apple's GPUs")
    # On a CPU, one thread: a pass of the built-in model takes 0.88 of its time with 2 rows, 0.85 with 8. On CUDA half
    # precision's tensor cores want this layout: diffusers' documentation, "Accelerate inference".
    why = (
        "it pays for convolutions"
        if device == "cpu"
        else "diffusers advises it for convolutions; not measured here yet"
    )
    return Choice(Levers(channels_last=True), f"{why}; EASEL_LEVERS has the others")


def _first(*conditions: bool | str) -> str:
    """Give the first reason among conditions that hold (True) or say why not."""
    return next((condition for condition in conditions if isinstance(condition, str)), "")


ROW_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def padded_rows(rows: int) -> int:
    """Give the size a pass of so many rows is padded to: at most half as many again, and few enough to be compiled for each. Pure."""
    return next((size for size in ROW_SIZES if size >= rows), rows)
