"""The light of a time of day and a weather: what colours are under it."""

import random
from dataclasses import dataclass

from tools.pocket.canvas import Colour, mix, shiver

SKIES: dict[str, tuple[Colour, ...]] = {
    "day": ((58, 138, 228), (112, 184, 244), (196, 230, 250)),
    "sunset": ((74, 34, 108), (206, 66, 88), (250, 134, 58)),
    "night": ((6, 9, 34), (14, 20, 60), (34, 44, 98)),
    "dawn": ((168, 178, 232), (240, 190, 204), (255, 224, 196)),
}
# A day's colour seen at another time: mixed with, by how much, then dimmed to.
AMBIENT: dict[str, tuple[Colour, float, float]] = {
    "day": ((255, 255, 255), 0.0, 1.0),
    "sunset": ((150, 50, 70), 0.42, 0.72),
    "night": ((20, 30, 96), 0.4, 0.5),
    "dawn": ((244, 196, 206), 0.45, 0.97),
}
WATER: dict[str, Colour] = {
    "day": (34, 112, 190),
    "sunset": (96, 54, 112),
    "night": (14, 28, 74),
    "dawn": (150, 150, 200),
}
HALO: dict[str, Colour] = {
    "day": (255, 250, 220),
    "sunset": (255, 190, 84),
    "night": (86, 100, 160),
    "dawn": (255, 240, 190),
}
LAMP: dict[str, Colour] = {
    "day": (255, 226, 92),
    "sunset": (255, 214, 90),
    "night": (250, 246, 214),
    "dawn": (255, 246, 200),
}
PAPER: dict[str, Colour] = {
    "day": (250, 249, 246),
    "sunset": (252, 190, 120),
    "night": (22, 30, 66),
    "dawn": (250, 216, 222),
}
INK: dict[str, Colour] = {"day": (30, 34, 48), "sunset": (88, 24, 40), "night": (232, 236, 250), "dawn": (110, 70, 110)}
CLOUDS: dict[str, Colour] = {
    "day": (250, 252, 255),
    "sunset": (252, 150, 120),
    "night": (52, 60, 104),
    "dawn": (255, 238, 240),
}
GREYS: dict[str, Colour] = {
    "day": (138, 150, 166),
    "sunset": (120, 76, 88),
    "night": (24, 28, 46),
    "dawn": (196, 180, 192),
}


@dataclass(frozen=True, slots=True)
class Light:
    """The colours of a time of day; `on` gives how a daytime colour looks in it."""

    time: str
    sky: tuple[Colour, ...]
    water: Colour
    halo: Colour
    lamp: Colour
    cloud: Colour
    fog: Colour
    dull: float

    def on(self, colour: Colour) -> Colour:
        """Give a daytime colour as it looks in this light."""
        tint, share, level = AMBIENT[self.time]
        lit = mix(mix((0, 0, 0), colour, level), tint, share * (0.75 if self.time == "night" else 0.8))
        return mix(lit, GREYS[self.time], self.dull)


def seen(light: "Light", colour: Colour) -> Colour:
    """Give a daytime colour as it looks on what stands in the open, which at night still shows some of its own."""
    return mix(light.on(colour), colour, 0.25 if light.time == "night" else 0.0)


def light_of(time: str, weather: str, rng: random.Random) -> Light:
    """Choose the light for a time and a weather, a little different every time."""
    dull = {"": 0.0, "cloudy": 0.18, "rain": 0.34, "snowfall": 0.22, "fog": 0.26}[weather]
    sky = tuple(shiver(mix(stop, GREYS[time], dull), rng, 7) for stop in SKIES[time])
    return Light(
        time,
        sky,
        mix(WATER[time], GREYS[time], dull),
        HALO[time],
        LAMP[time],
        CLOUDS[time],
        mix(SKIES[time][-1], (225, 228, 235), 0.5 if time != "night" else 0.2),
        dull,
    )
