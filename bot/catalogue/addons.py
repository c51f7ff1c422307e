"""What may be put on a model besides: LoRAs and textual inversions, as this machine has them. Pure.

Who finds and reads the files is `bot/engine/files/addons.py`; what somebody asks for is checked in `bot/prompts/addons.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LORAS = 5
"""LoRAs on one picture."""
MAX_WEIGHT = 2.0
DRAWN = ("LoRA", "LoCon")
"""The formats that are drawn with; others are refused by name."""
UNETS = ("sd15", "sd21", "sdxl")
"""Families whose denoiser is a UNet; what is made for them is told apart by the width of the words."""
FAMILIES = (*UNETS, "sd3", "flux")
"""Families that take LoRAs."""
EMBEDDED = UNETS
"""Families that take textual inversions."""
ADDON_NAME = re.compile(r"[^\s,:<>](?:[^\n\r\t,:<>]{0,62}[^\s,:<>])?")
WIDTHS = {"sd15": 768, "sd21": 1024, "sdxl": 2048}
"""The width of the published models' words, as their UNets read them."""
FAMILY_NAMES = {
    "sd15": "Stable Diffusion 1.x", "sd21": "Stable Diffusion 2.x", "sdxl": "SDXL", "sd3": "Stable Diffusion 3", "flux": "FLUX.1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AddOn:
    """One file that goes onto a model.

    `family` is one of FAMILIES or "unet", where the width alone says for which; `width` is that of the words its UNet reads, for
    an embedding that of its first text encoder; None where that is not told. `only` is the id of the model whose own it is.
    `kind` is what its format is called ("LoRA", "LoHa", "DoRA"), `triggers` the words that call what it knows.
    """

    name: str
    path: str
    family: str
    width: int | None = None
    kind: str = "LoRA"
    triggers: tuple[str, ...] = ()
    only: str | None = None

    @property
    def made_for(self) -> str:
        """Say in a word for which models it is."""
        if self.only is not None:
            return self.only
        return FAMILY_NAMES.get(self.family, f"another model ({self.width} wide)" if self.width else "another model")


def fits(addon: AddOn, model_id: str, family: str, width: int | None) -> bool:
    """Tell whether it was made for a model of this family, whose words are `width` wide (None where that is not known)."""
    if addon.only is not None:
        return addon.only == model_id
    if addon.family == "unet" or addon.family in UNETS:
        known = width if width is not None else WIDTHS.get(family)
        return family in UNETS and (addon.width == known if addon.width is not None else addon.family == family)
    return addon.family == family
