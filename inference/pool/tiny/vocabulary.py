"""What the small model knows by name, and how people might say it."""

import numpy as np

COLOURS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    # name: (RGB at the middle of its range, further words for it)
    "red": ((215, 38, 40), ("crimson", "scarlet")),
    "green": ((40, 160, 65), ()),
    "blue": ((40, 85, 205), ()),
    "yellow": ((240, 212, 45), ()),
    "orange": ((242, 132, 28), ()),
    "purple": ((128, 50, 170), ("violet",)),
    "pink": ((246, 140, 190), ()),
    "brown": ((122, 72, 34), ()),
    "white": ((244, 244, 244), ()),
    "black": ((22, 22, 24), ()),
}

SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "disk", "dot", "ball"),
    "square": (),
    "triangle": (),
    "star": (),
    "rectangle": ("bar",),
    "cross": ("plus",),
    "ring": ("donut", "hoop"),
    "heart": (),
}

COLOUR_NAMES = tuple(COLOURS)
SHAPE_NAMES = tuple(SHAPES)

ANYTHING = ("shape", "object", "thing", "figure")
EVERYTHING = ("everything", "anything", "all", "all shapes", "all objects", "every shape", "every object")

# Words for which the right answer is "nothing": without them the model answers a stranger's word with rubbish.
UNKNOWN: list[str] = (  # noqa: SIM905 - as a list literal it would fill a hundred lines
    "dog cat horse cow sheep bird fish lion tiger bear elephant monkey rabbit mouse snake frog duck chicken pig goat "
    "person man woman child boy girl baby face hand eye hair nose mouth foot leg arm head people crowd player "
    "car truck bus train bicycle motorcycle boat ship airplane helicopter wheel tire road street bridge sign "
    "house building door window roof wall floor stair fence tower church castle tent room kitchen garden "
    "tree flower grass leaf forest mountain river lake sea sky cloud sun moon rain snow sand rock stone fire "
    "table chair sofa bed lamp desk shelf mirror clock phone computer laptop keyboard screen camera television book "
    "paper pen pencil bag bottle cup glass plate bowl knife fork spoon pot shirt dress hat shoe sock coat trousers "
    "apple banana lemon grape cherry strawberry bread cake pizza cheese egg meat rice soup coffee tea milk water "
    "guitar piano drum toy doll kite umbrella key coin wallet ticket map flag letter hammer "
    "saw nail rope wire chain ladder engine robot rocket planet shadow smoke text logo number word"
).split()


_SYLLABLES: list[str] = (  # noqa: SIM905 - as for UNKNOWN
    "ba be bo ca co da de do fa fi go ha he ki la le lo ma me mi mo na ne no pa pe po ra re ri ro sa se si so ta te "
    "ti to tri va ve wi zo at en er in on or al el ar is og ig un ock ing art oll ear ight"
).split()


def plural(word: str) -> str:
    """The plural of one of this vocabulary's nouns."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word + "s"


def _noun(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """One of `words`, singular or plural; the first is half of all."""
    word = words[0] if len(words) == 1 or rng.random() < 0.5 else words[int(rng.integers(1, len(words)))]
    return plural(word) if rng.random() < 0.45 else word


def _with_article(rng: np.random.Generator, phrase: str) -> str:
    draw = rng.random()
    if draw < 0.62:
        return phrase
    articles = ("a ", "the ", "all ", "all the ", "every ", "one ", "find the ", "some ")
    return articles[int(rng.integers(len(articles)))] + phrase


def phrase_for(rng: np.random.Generator, colour: str | None, shape: str | None) -> str:
    """A phrase that means all objects of that colour and shape; None means any."""
    if shape is None and colour is None:
        any_noun = rng.random() < 0.6
        return _with_article(rng, _noun(rng, ANYTHING)) if any_noun else str(rng.choice(EVERYTHING))
    colour_word = _synonym(rng, colour, COLOURS[colour][1], 0.1) if colour is not None else ""
    if shape is None:
        draw = rng.random()
        if draw < 0.45:
            return colour_word if draw < 0.4 else f"something {colour_word}"
        return _with_article(rng, f"{colour_word} {_noun(rng, ANYTHING)}")
    noun = _synonym(rng, shape, SHAPES[shape], 0.15)
    noun = plural(noun) if rng.random() < 0.45 else noun
    if colour is not None and rng.random() < 0.04:
        return f"{noun} in {colour_word}"
    return _with_article(rng, f"{colour_word} {noun}".strip())


def _synonym(rng: np.random.Generator, word: str, others: tuple[str, ...], part: float) -> str:
    return str(rng.choice(others)) if others and rng.random() < part else word


_KNOWN = {*COLOURS, *SHAPES, *ANYTHING, "all", *(word for words in SHAPES.values() for word in words)}


def unknown_phrase(rng: np.random.Generator) -> str:
    """A phrase for something that no scene contains; a third of them begin with a colour that it may contain."""
    draw = rng.random()
    if draw < 0.12:
        letters = "abcdefghijklmnopqrstuvwxyz"
        word = "".join(letters[int(i)] for i in rng.integers(0, 26, int(rng.integers(2, 9))))
    elif draw < 0.3:
        word = "".join(str(rng.choice(_SYLLABLES)) for _ in range(int(rng.integers(1, 4))))
        word = "nothing" if word in _KNOWN else word
    else:
        word = UNKNOWN[int(rng.integers(len(UNKNOWN)))]
        word = plural(word) if rng.random() < 0.3 else word
    if rng.random() < 0.33:
        word = f"{COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]} {word}"
    return _with_article(rng, word)
