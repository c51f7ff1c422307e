"""The words captions are made of: what people type for each thing a picture can hold."""

# A noun that is counted has "a" before it or "the"; one that is not stands bare or with "the".
COUNTED: dict[str, tuple[str, ...]] = {
    "beach": ("beach", "beach", "beach", "sandy beach", "shore", "coast", "seashore", "sandy shore", "beach scene"),
    "sea": ("sea", "sea", "ocean", "ocean", "calm sea", "calm ocean", "seascape"),
    "mountains": ("mountain range", "mountain landscape", "mountain", "mountain valley"),
    "hills": ("hilly landscape", "hill", "meadow", "green meadow", "grassy hill", "green hill"),
    "forest": ("forest", "forest", "forest", "pine forest", "deep forest", "woodland", "dense forest"),
    "desert": ("desert", "desert", "sandy desert", "desert landscape", "hot desert"),
    "city": (
        "city",
        "city",
        "skyline",
        "city skyline",
        "cityscape",
        "futuristic city",
        "futuristic city skyline",
        "big city",
    ),
    "snow": ("snowy field", "winter landscape", "snowy landscape", "snowy plain", "snow field", "winter wonderland"),
}
UNCOUNTED: dict[str, tuple[str, ...]] = {
    "beach": ("beach",),
    "sea": ("sea", "ocean", "open sea", "open water", "waves"),
    "mountains": ("mountains", "mountains", "mountains", "mountain peaks", "high mountains", "rocky mountains"),
    "hills": ("hills", "rolling hills", "green hills", "grassy hills", "countryside", "rolling green hills"),
    "forest": ("woods", "forest"),
    "desert": ("desert", "sand dunes", "dunes"),
    "city": ("skyscrapers", "downtown", "city"),
    "snow": ("snow", "snow", "fresh snow", "deep snow", "snowy plains", "snowy fields"),
}

TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "in daylight", "at noon", "in the daytime", "at midday", "in the afternoon"),
    "sunset": (
        "at sunset",
        "at sunset",
        "at sunset",
        "at dusk",
        "in the evening",
        "during sunset",
        "at golden hour",
        "at sundown",
    ),
    "night": (
        "at night",
        "at night",
        "at night",
        "by night",
        "at midnight",
        "during the night",
        "late at night",
        "in the dark",
    ),
    "dawn": (
        "at dawn",
        "at dawn",
        "at sunrise",
        "at sunrise",
        "in the early morning",
        "at daybreak",
        "early in the morning",
    ),
}
TIME_NOUNS: dict[str, tuple[str, ...]] = {
    "day": ("day", "daytime", "daylight", "noon", "midday"),
    "sunset": ("sunset", "sunset", "dusk", "evening", "golden hour", "evening light"),
    "night": ("night", "night", "nighttime", "midnight", "night sky", "dark night"),
    "dawn": ("dawn", "sunrise", "early morning", "morning light", "daybreak"),
}
TIME_OVER: dict[str, tuple[str, ...]] = {
    "day": ("a summer day over", "a day at", "daylight over"),
    "sunset": (
        "a sunset over",
        "sunset over",
        "the sunset over",
        "a sunset at",
        "an evening at",
        "dusk over",
        "a red sunset over",
    ),
    "night": ("night over", "a night at", "the night sky over", "midnight at", "a dark night over"),
    "dawn": ("a sunrise over", "sunrise over", "dawn over", "the sunrise over", "an early morning at", "daybreak over"),
}
# (time, the extra it names): words that say both.
TIME_WITH_EXTRA: dict[tuple[str, str], tuple[str, ...]] = {
    ("night", "stars"): ("on a starry night", "under a starry sky", "under the stars", "under a sky full of stars"),
    ("night", "moon"): (
        "in the moonlight",
        "on a moonlit night",
        "under a full moon at night",
        "under the moon at night",
    ),
    ("day", "sun"): ("on a sunny day", "in the sunshine", "under a bright sun"),
    ("sunset", "sun"): ("under the setting sun", "with the setting sun", "as the sun sets", "as the sun goes down"),
    ("dawn", "sun"): ("under the rising sun", "with the rising sun", "as the sun rises", "as the sun comes up"),
}

WEATHER_PHRASES: dict[str, tuple[str, ...]] = {
    "cloudy": (
        "under a cloudy sky",
        "under an overcast sky",
        "with a cloudy sky",
        "in cloudy weather",
        "under grey clouds",
        "under gray clouds",
    ),
    "rain": (
        "in the rain",
        "in heavy rain",
        "while it rains",
        "in rainy weather",
        "with falling rain",
        "during a rain shower",
    ),
    "snowfall": (
        "in falling snow",
        "while it snows",
        "with falling snow",
        "in a snowstorm",
        "during snowfall",
        "in a blizzard",
    ),
    "fog": (
        "in the fog",
        "in thick fog",
        "in the mist",
        "wrapped in fog",
        "in foggy weather",
        "covered by mist",
        "with fog",
    ),
}
WEATHER_NOUNS: dict[str, tuple[str, ...]] = {
    "cloudy": ("cloudy", "overcast", "cloudy sky", "overcast sky"),
    "rain": ("rain", "rainy", "raining", "rainy weather", "heavy rain"),
    "snowfall": ("snowfall", "snowing", "falling snow", "snowstorm"),
    "fog": ("fog", "foggy", "mist", "misty", "thick fog"),
}
WEATHER_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "cloudy": ("cloudy", "overcast"),
    "rain": ("rainy",),
    "snowfall": ("snowy", "snow-covered"),
    "fog": ("foggy", "misty"),
}

# "-" before a noun: it stands without "a".
EXTRA_NOUNS: dict[str, tuple[str, ...]] = {
    "moon": ("moon", "full moon", "bright moon", "-the moon", "big moon"),
    "boat": ("boat", "boat", "sailing boat", "sailboat", "ship", "sailing ship", "yacht"),
    "lighthouse": ("lighthouse",),
    "house": ("house", "house", "cabin", "cottage", "hut", "little house"),
    "tree": ("tree", "tree", "lone tree", "single tree", "big tree"),
    "palm tree": ("palm tree", "palm tree", "palm", "tropical palm tree"),
    "cactus": ("cactus", "cactus", "green cactus", "tall cactus"),
    "balloon": (
        "balloon",
        "hot air balloon",
        "hot air balloon",
        "hot-air balloon",
        "colourful balloon",
        "colorful balloon",
    ),
    "rainbow": ("rainbow", "rainbow", "colourful rainbow", "colorful rainbow"),
    "neon lights": (
        "-neon lights",
        "-neon lights",
        "-neon signs",
        "-glowing neon lights",
        "-bright neon lights",
        "-neon city lights",
    ),
    "sun": ("-the sun", "bright sun", "sun", "shining sun"),
    "stars": ("-stars", "-stars", "-many stars", "-bright stars", "-twinkling stars", "starry sky"),
    "clouds": ("-clouds", "-clouds", "-some clouds", "-a few clouds", "-white clouds", "-fluffy clouds"),
    "birds": ("-birds", "-birds", "-flying birds", "flock of birds", "-some birds"),
}
# Where an extra is said to be: "a boat on the sea".
EXTRA_WHERE: dict[str, tuple[str, ...]] = {
    "moon": ("over", "above", "in the sky over"),
    "boat": ("on", "sailing on", "floating on"),
    "lighthouse": ("by", "near", "next to", "at"),
    "house": ("in", "in", "standing in"),
    "tree": ("in", "in", "growing in"),
    "palm tree": ("at", "by", "in"),
    "cactus": ("in", "in", "growing in"),
    "balloon": ("over", "above", "flying over", "floating over", "floating above"),
    "rainbow": ("over", "above"),
    "neon lights": ("in", "over", "of"),
    "sun": ("over", "above", "shining over"),
    "stars": ("over", "above", "shining over"),
    "clouds": ("over", "above"),
    "birds": ("over", "above", "flying over"),
}
NEON_CITIES = ("cyberpunk city", "neon city", "neon-lit city", "city lit by neon lights", "cyberpunk cityscape")

STYLE_BEFORE: dict[str, tuple[str, ...]] = {
    "": (),
    "flat": ("flat illustration of", "a flat illustration of", "flat design of", "flat vector art of", "a flat drawing of", "flat art of"),
    "watercolour": (
        "watercolour painting of", "watercolor painting of", "a watercolour painting of", "a watercolor painting of",
        "a watercolour of", "watercolor of", "watercolour", "aquarelle of",
    ),
    "pixel art": ("pixel art of", "pixel art of", "pixel art", "16-bit pixel art of", "8-bit pixel art of", "a pixelated", "a pixel drawing of"),
    "line art": ("line art of", "line art of", "a line drawing of", "line drawing of", "lineart of", "an outline drawing of", "line art"),
    "neon": ("neon style", "a neon style picture of", "neon art of", "a glowing neon drawing of", "a neon drawing of", "neon glow art of"),
}  # fmt: skip
STYLE_AFTER: dict[str, tuple[str, ...]] = {
    "": (),
    "flat": (", flat", ", flat design", ", flat style", ", flat vector", " in flat style", ", flat colours", ", flat colors", ", vector art"),
    "watercolour": (
        ", watercolour", ", watercolor", ", watercolour painting", ", watercolor painting", " in watercolour", " in watercolor",
        " painted in watercolours", ", watercolour style", ", watercolor style",
    ),
    "pixel art": (", pixel art", ", pixel art", " in pixel art style", ", 8-bit", ", 16-bit pixel art", " as pixel art", ", pixelated"),
    "line art": (", line art", ", line art", ", line drawing", ", lineart", " as line art", " in line art style", ", outline drawing"),
    "neon": (", neon style", ", neon glow", " in neon style", " in a neon style", ", neon glow style", ", glowing neon outlines", ", neon art"),
}  # fmt: skip

LEADS = (
    "a picture of", "picture of", "an image of", "image of", "a photo of", "photo of", "an illustration of", "digital illustration of",
    "digital art of", "a painting of", "painting of", "a drawing of", "draw", "please draw", "show me", "create", "generate", "a view of",
)  # fmt: skip
QUALITY = (
    "highly detailed", "masterpiece", "4k", "8k", "best quality", "high quality", "digital art", "digital illustration", "beautiful",
    "detailed", "hd", "cinematic", "sharp", "vivid", "aesthetic", "wallpaper", "concept art", "stunning",
)  # fmt: skip
ADJECTIVES = (
    "beautiful",
    "beautiful",
    "lovely",
    "peaceful",
    "stunning",
    "dreamy",
    "nice",
    "wonderful",
    "calm",
    "magical",
    "pretty",
    "quiet",
)
THING_ADJECTIVES = ("beautiful", "cute", "nice", "simple", "lovely", "pretty", "single", "cool")

KIND_NOUNS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "circle", "circle", "circle", "disc", "disk", "ball"),
    "square": ("square", "square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cat": ("cat", "cat", "cat", "kitten", "kitty"),
    "rabbit": ("rabbit", "rabbit", "rabbit", "bunny", "hare"),
    "fish": ("fish",),
    "bird": ("bird",),
    "butterfly": ("butterfly",),
    "flower": ("flower", "flower", "flower", "blossom"),
    "apple": ("apple",),
    "mushroom": ("mushroom", "mushroom", "toadstool"),
    "car": ("car", "car", "car", "automobile"),
    "rocket": ("rocket", "rocket", "rocket ship", "spaceship", "space rocket"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red",) * 9 + ("crimson", "bright red"),
    "green": ("green",) * 9 + ("bright green",),
    "blue": ("blue",) * 9 + ("bright blue",),
    "yellow": ("yellow",) * 9 + ("bright yellow",),
    "orange": ("orange",) * 9 + ("bright orange",),
    "purple": ("purple",) * 9 + ("violet", "violet"),
    "pink": ("pink",) * 9 + ("bright pink",),
    "white": ("white",) * 9 + ("pure white",),
    "black": ("black",) * 9 + ("jet black",),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "small", "little", "tiny"),
    "": ("",),
    "large": ("large", "large", "large", "big", "big", "huge", "giant"),
}
BACKGROUNDS = (
    " on a {} background", " on a {} background", " on a {} background", " on a {} background", " on {} background", " on {}",
    " with a {} background", " against a {} background", " against a {} backdrop", ", {} background", ", {} background", " in front of a {} background",
    " on a plain {} background", " on a solid {} background", " over a {} background",
)  # fmt: skip
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": (
        "left of",
        "left of",
        "left of",
        "to the left of",
        "to the left of",
        "on the left side of",
        "on the left of",
    ),
    "right of": (
        "right of",
        "right of",
        "right of",
        "to the right of",
        "to the right of",
        "on the right side of",
        "on the right of",
    ),
    "above": ("above", "above", "above", "over", "on top of", "on top of"),
    "below": ("below", "below", "below", "under", "under", "beneath", "underneath"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIDES = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}
COUNTS: dict[int, tuple[str, ...]] = {
    2: ("two", "two", "two", "2", "a pair of"),
    3: ("three", "three", "three", "3", "a group of three"),
    4: ("four", "four", "four", "4", "a group of four"),
}
