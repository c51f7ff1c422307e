"""What of a model is on which card: the table of cards people have, and how large a picture is decoded at once."""

from __future__ import annotations

import pytest

from bot.engine.memory.plans import FAMILY_PARTS, GIB, Mode, Plan, on_card_while_decoding, plan_for, tile_side

WHOLE, PARTS, GROUPS, LAYERS, NONE = Mode.WHOLE, Mode.PARTS, Mode.GROUPS, Mode.LAYERS, Mode.NONE


@pytest.mark.parametrize(
    ("family", "modes"),
    [
        #              4       6       8       12     24 GB, with 64 GB of main memory
        ("sd15", (WHOLE, WHOLE, WHOLE, WHOLE, WHOLE)),
        ("sdxl", (GROUPS, PARTS, WHOLE, WHOLE, WHOLE)),
        ("sd3", (GROUPS, GROUPS, GROUPS, PARTS, WHOLE)),
        ("flux", (GROUPS, GROUPS, GROUPS, GROUPS, PARTS)),
        ("z-image", (GROUPS, GROUPS, GROUPS, GROUPS, WHOLE)),
        ("qwen-image", (LAYERS, LAYERS, LAYERS, LAYERS, LAYERS)),
    ],
)
def test_plan_for_cards_of_4_to_24_gb(family: str, modes: tuple[Mode, ...]) -> None:
    planned = [plan_for(FAMILY_PARTS[family], card * GIB, 64 * GIB).mode for card in (4, 6, 8, 12, 24)]
    assert planned == list(modes)


@pytest.mark.parametrize(
    ("family", "card", "ram", "mode"),
    [
        ("flux", 12, 24, NONE),
        ("flux", 12, 40, LAYERS),
        ("flux", 12, 48, GROUPS),
        ("flux", 12, None, GROUPS),
        ("flux", 24, 16, NONE),
        ("flux", 48, 16, WHOLE),
        ("flux", None, 16, WHOLE),
        ("sdxl", 4, 8, LAYERS),
    ],
)
def test_plan_for_main_memory_decides_how_layers_move(family: str, card: int, ram: int | None, mode: Mode) -> None:
    card_bytes = None if card is None else card * GIB
    assert plan_for(FAMILY_PARTS[family], card_bytes, None if ram is None else ram * GIB).mode is mode


@pytest.mark.parametrize(
    ("family", "card", "stay"),
    [
        ("sd3", 8, {"transformer", "vae", "text_encoder", "text_encoder_2"}),
        ("sd3", 4, {"vae"}),
        ("flux", 12, {"vae"}),
    ],
)
def test_plan_for_groups_keeps_the_denoiser_there_where_it_fits(family: str, card: int, stay: set[str]) -> None:
    parts = FAMILY_PARTS[family]
    plan = plan_for(parts, card * GIB, 64 * GIB)
    assert set(plan.stay) == stay
    assert sum(parts[name] for name in stay) <= 0.85 * card * GIB


@pytest.mark.parametrize(
    ("unet", "mode"),
    [(84, WHOLE), (85, PARTS), (94, PARTS), (96, GROUPS)],
    ids=["whole", "no room", "alone", "not alone"],
)
def test_plan_for_leaves_room_for_the_picture(unet: int, mode: Mode) -> None:
    assert plan_for({"unet": unet, "vae": 1}, 100, 1000).mode is mode


def test_plan_for_what_fits_only_on_paper_takes_turns() -> None:
    assert plan_for({"unet": 100, "vae": 10}, 1000, 1000, whole=False) == Plan(PARTS)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [(Plan(WHOLE), 111), (Plan(PARTS), 1), (Plan(GROUPS, ("unet", "vae")), 101), (Plan(LAYERS), 1)],
)
def test_on_card_while_decoding_counts_what_shares_the_card(plan: Plan, expected: int) -> None:
    assert on_card_while_decoding({"unet": 100, "text_encoder": 10, "vae": 1}, plan) == expected


@pytest.mark.parametrize(
    ("size", "room", "side"),
    [
        ((1024, 1024), None, None),
        ((1024, 1024), 1024 * 1024, None),
        ((1024, 1024), 1024 * 1024 - 1, 768),
        ((1024, 1024), 768 * 768 - 1, 512),
        ((1024, 1024), 0, 256),
        ((512, 512), 512 * 512, None),
    ],
)
def test_tile_side_only_where_the_peak_does_not_fit(
    size: tuple[int, int], room: float | None, side: int | None
) -> None:
    assert tile_side(*size, 1.0, room) == side
