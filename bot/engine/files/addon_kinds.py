"""What a file of LoRAs or embeddings is, told from its header alone: its kind, for which family, what calls it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from bot.catalogue.addons import WIDTHS
from bot.engine.files.headers import Header
from bot.prompts.text import plain

MAX_VECTORS = 75
"""Of one embedding: more than a prompt has tokens for."""
MAX_TRIGGERS = 3
TRIGGER_CHARS = 80

_OTHER_KINDS = (
    (re.compile(r"dora_scale|lora_magnitude_vector"), "DoRA"),
    (re.compile(r"\.hada_"), "LoHa"),
    (re.compile(r"\.lokr_"), "LoKr"),
    (re.compile(r"\.lora_mid\."), "LoCon in Tucker form"),
    (re.compile(r"oft_|\.boft"), "OFT"),
    (re.compile(r"\.on_input$"), "IA³"),
    (re.compile(r"\.(diff|diff_b|w_norm|b_norm|set_weight|a1\.weight)$"), "LyCORIS of whole weights"),
)
_PLAIN = re.compile(r"(lora_(up|down|A|B)|lora\.(up|down)|_lora\.(up|down)|lora_linear_layer\.(up|down))\.")
_DOWN = re.compile(r"(lora_down|lora_A|lora\.down|_lora\.down|lora_linear_layer\.down)\.")
_READS_WORDS = re.compile(r"attn2[._](processor[._])?to_[kv]([._]|_lora)")
_QUERY = re.compile(r"self_attn[._](q_proj|to_q)")
_FLUX = re.compile(r"single_transformer_blocks|double_blocks|single_blocks")
_LATER = re.compile(
    r"to_qkv_mlp_proj|double_stream_modulation|lora_unet_layers|context_refiner|txt_mlp|diffusion_model\.layers"
)
_FLUX_WIDTH = 3072


def kind_of(header: Header) -> str | None:
    """Name the format of a file of LoRAs: "LoRA", "LoCon" (convolutions, too) or another; None where it is none."""
    names = list(header.tensors)
    for pattern, kind in _OTHER_KINDS:
        if any(pattern.search(name) for name in names):
            return kind
    plain_ones = [name for name in names if _PLAIN.search(name)]
    if not plain_ones:
        return None
    convolves = any(len(shape := header.tensors[name].shape) == 4 and shape[-1] > 1 for name in plain_ones)
    return "LoCon" if convolves else "LoRA"


def family_of(header: Header) -> tuple[str, int | None] | None:
    """Tell for which family a file of LoRAs was made, and how wide the words are that its UNet reads; None where nothing tells."""
    names = list(header.tensors)
    if any(_LATER.search(name) for name in names):
        return None
    if any(_FLUX.search(name) for name in names):
        return "flux", None
    if any("joint_blocks" in name for name in names):
        return "sd3", None
    if any(name.startswith("transformer.") for name in names):
        wide = any(t.shape[-1:] == (_FLUX_WIDTH,) for name, t in header.tensors.items() if _DOWN.search(name))
        return ("flux" if wide else "sd3"), None
    widths = {
        tensor.shape[1]
        for name, tensor in header.tensors.items()
        if _READS_WORDS.search(name) and _DOWN.search(name) and len(tensor.shape) >= 2
    }
    if len(widths) == 1:
        return unet_family(widths.pop())
    return None if widths else _by_the_encoders(header) or _said(header.metadata)


def _by_the_encoders(header: Header) -> tuple[str, int | None] | None:
    """Tell a UNet's family by the text encoders that the file changes: two are SDXL's, one is as wide as the words."""
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in header.tensors):
        return "sdxl", None
    widths = {
        tensor.shape[1]
        for name, tensor in header.tensors.items()
        if name.startswith(("lora_te_", "text_encoder."))
        and _QUERY.search(name)
        and _DOWN.search(name)
        and len(tensor.shape) >= 2
    }
    return unet_family(widths.pop()) if len(widths) == 1 else None


def unet_family(width: int) -> tuple[str, int]:
    """Name the family whose UNets read words of this width; "unet" where it is nobody's in particular."""
    return next((family for family, known in WIDTHS.items() if known == width), "unet"), width


def embedding_width(header: Header) -> int | None:
    """Tell how wide the words of an embedding are, those of SDXL's two encoders together; None where it is no embedding."""
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    if set(shapes) == {"clip_l", "clip_g"} and all(len(shape) == 2 for shape in shapes.values()):
        return shapes["clip_l"][1] + shapes["clip_g"][1]
    if len(shapes) != 1 or any(len(shape) == 2 and shape[0] > MAX_VECTORS for shape in shapes.values()):
        return None
    shape = next(iter(shapes.values()))
    return shape[-1] if len(shape) in (1, 2) else None


def triggers_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Read the words that call what a LoRA knows: as its maker wrote them, else the captions' most frequent ones."""
    phrase = metadata.get("modelspec.trigger_phrase", "")
    return clean([phrase]) if phrase.strip() else clean(_frequent(metadata.get("ss_tag_frequency", "")))


def clean(texts: Iterable[object]) -> tuple[str, ...]:
    """Make the first few texts fit to be shown."""
    shown = [plain(text, TRIGGER_CHARS) for text in texts if isinstance(text, str)]
    return tuple(dict.fromkeys(filter(None, shown)))[:MAX_TRIGGERS]


def _frequent(text: str) -> list[str]:
    """Sort the captions of sd-scripts, {folder: {tag: count}}, by how often they were trained."""
    try:
        folders: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return []
    counts: dict[str, int] = {}
    for tags in cast("dict[str, Any]", folders).values() if isinstance(folders, dict) else ():
        for tag, count in cast("dict[str, Any]", tags).items() if isinstance(tags, dict) else ():
            if isinstance(count, int):
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    return sorted(counts, key=lambda tag: -counts[tag])


_SAID = (("sdxl", "sdxl"), ("stable-diffusion-xl", "sdxl"), ("sd_v1", "sd15"), ("stable-diffusion-v1", "sd15"), ("sd_v2", "sd21"),
         ("stable-diffusion-v2", "sd21"))  # fmt: skip


def _said(metadata: Mapping[str, str]) -> tuple[str, None] | None:
    """Believe the metadata where no layer tells."""
    text = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}".lower()
    return next(((family, None) for word, family in _SAID if word in text), None)
