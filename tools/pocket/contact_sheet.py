"""The sheet of pictures that stands in the README: seeds 0 to 23 in order, nothing picked."""

from PIL import Image

from tools.pocket.family import draw_prompts, pipeline, sheet
from tools.pocket.workshop import Workshop

COLUMNS = 8
PROMPTS = (
    "a sunset over a beach",
    "A beautiful sunset over the mountains.",
    "A futuristic city skyline with neon lights at night.",
    "a starry night over the sea with a full moon",
    "green hills on a sunny day with a red house",
    "the ocean at sunset with a sailing boat",
    "a lighthouse on the beach at day",
    "a desert at dawn with a cactus",
    "snowy mountains with clouds",
    "a forest at night with a house",
    "a hot air balloon over the hills",
    "a beach with a palm tree",
    "a rainbow over the sea",
    "a snowy landscape at dawn with a house",
    "watercolour painting of mountains at sunset",
    "a city at night, pixel art",
    "a large red heart on a white background",
    "a blue star on a yellow background",
    "a green circle left of a red square on a black background",
    "a white triangle on a purple background",
    "three yellow stars on a black background",
    "a black cat on a pink background",
    "a red apple, white background",
    "a pink butterfly on a blue background",
)


def contact_sheet(shop: Workshop) -> Image.Image:
    """Draw PROMPTS with the shipped pipeline, each with its number as the seed."""
    pipe = pipeline(shop.parts())
    images: list[Image.Image] = []
    for start in range(0, len(PROMPTS), COLUMNS):
        part = list(PROMPTS[start : start + COLUMNS])
        images += draw_prompts(pipe, part, list(range(start, start + len(part))))
    return sheet(images, COLUMNS)
