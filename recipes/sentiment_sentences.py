"""Generates review sentences with negation, contrast and intensifiers."""

from __future__ import annotations

import random
from collections.abc import Iterator


def _words(text: str) -> list[str]:
    return text.split("|")


_SUBJECTS = _words(
    "the plot|the acting|the dialogue|the soundtrack|the ending|the camera work|the pacing|the lead actor|the humor"
    "|the story|the script|the cast|the first half|the second act|the direction|the villain|the editing|the mood"
)
_GOOD = _words(
    "gripping|charming|clever|moving|fresh|brilliant|funny|warm|elegant|thoughtful|sharp|beautiful|honest|delightful"
    "|tense|inventive|touching|vivid|polished|memorable"
)
_BAD = _words(
    "dull|clumsy|tedious|shallow|predictable|bland|messy|annoying|lifeless|silly|forced|flat|confusing|lazy|tired"
    "|hollow|awkward|stale|sloppy|forgettable"
)
_STRONGER = ("very", "truly", "utterly", "remarkably", "really", "so")
_NOT = ("is not", "is never", "is hardly", "is anything but", "fails to be", "is far from")
_CONCESSION = ("although", "even though", "while")
_FRAMES = ("{}", "i think {}", "to be fair , {}", "my friends agree that {}", "once again , {}", "in this film {}")


def _clause(rng: random.Random) -> tuple[str, bool]:
    good = rng.random() < 0.5
    word = rng.choice(_GOOD if good else _BAD)
    if rng.random() < 0.4:
        word = f"{rng.choice(_STRONGER)} {word}"
    if rng.random() < 0.4:
        return f"{rng.choice(_SUBJECTS)} {rng.choice(_NOT)} {word}", not good
    return f"{rng.choice(_SUBJECTS)} is {word}", good


def _sentence(rng: random.Random) -> tuple[str, str]:
    """A sentence and its label: that of its main clause. Concessions, and clauses before a `but`, do not count."""
    main, good = _clause(rng)
    kind = rng.random()
    if kind < 0.3:
        other, _ = _clause(rng)
        main = f"{other} , but {main}"
    elif kind < 0.5:
        other, _ = _clause(rng)
        main = f"{rng.choice(_CONCESSION)} {other} , {main}"
    elif kind < 0.65:
        other, _ = _clause(rng)
        main = f"{main} , {rng.choice(_CONCESSION)} {other}"
    return f"{rng.choice(_FRAMES).format(main)} .", "positive" if good else "negative"


def sentences(rng: random.Random, number: int) -> list[tuple[str, str]]:
    """Distinct sentences with their labels."""

    def unique() -> Iterator[tuple[str, str]]:
        generated: set[str] = set()
        while len(generated) < number:
            sentence, label = _sentence(rng)
            if sentence not in generated:
                generated.add(sentence)
                yield sentence, label

    return list(unique())
