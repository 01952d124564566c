"""python make_data.py [--preview]

Owns the grammar that writes about invented walks (its words are in walks.py); knows nothing of models or of genopt.

Run as above it writes data.jsonl: one card with its facts a row, four clean descriptions each. `texts` gives the
training corpus of train.py: other cards (no name-and-village pair of data.jsonl is among them) and, as texts found in
the world are, not all of them right: one in four has a slip, which is what the tail of the model's distribution is
made of. Standard library only; every draw comes from a seeded generator, so two runs write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from walks import (
    BEGINS,
    DOGS,
    ENDS,
    FIRST,
    FROM,
    JOURNEY,
    KM_NOUN,
    LATER,
    LENGTHS,
    LEVELS,
    NOUN,
    ODD,
    OPENINGS,
    PASSES,
    PLURAL,
    SECOND,
    SIGHTS,
    SKEW,
    STARTS,
    Card,
    card_prompt,
    facts,
)

HERE = Path(__file__).resolve().parent
SEED = 20
ROWS = 440
REFERENCES = 4
SLIP_RATE = 0.25


def pick(rng: random.Random, options: Sequence[str]) -> str:
    """One of `options`, the earlier the likelier."""
    return rng.choices(options, [1 / (i + 1) ** SKEW for i in range(len(options))])[0]


def fill(rng: random.Random, template: str, card: Card) -> str:
    """`template` with its slots filled from `card`, words chosen by `rng`; a(n) is left for `describe` to decide."""
    name = card.name if rng.random() < 0.3 else f"the {card.name}"
    slots = {
        "name": name,
        "Name": name[0].upper() + name[1:],
        "km": str(card.length),
        "start": card.start,
        "sight": card.sight,
        "level": pick(rng, LEVELS[card.level]),
        "noun": pick(rng, NOUN),
        "passes": pick(rng, PASSES),
        "is": "are" if card.sight.endswith(PLURAL) else "is",
    }
    for key, options in (("begins", BEGINS), ("from", FROM), ("journey", JOURNEY), ("km_noun", KM_NOUN)):
        slots[key] = pick(rng, options).format(**slots)
    slots["Km_noun"] = slots["km_noun"][0].upper() + slots["km_noun"][1:]
    return template.format(**slots)


def describe(rng: random.Random, card: Card) -> str:
    """One to four sentences that state every fact of `card`, in words chosen by `rng`."""
    template, told = OPENINGS[rng.choices(range(len(OPENINGS)), [1 / (i + 1) ** 0.9 for i in range(len(OPENINGS))])[0]]
    text = fill(rng, template, card)
    left = "".join(letter for letter in "lvsw" if letter not in told)
    dogs = pick(rng, DOGS[card.dogs]) if card.dogs else ""
    if left:
        later = fill(rng, pick(rng, LATER[left]), card)
        if dogs and rng.random() < 0.6:
            later, dogs = f"{later}{pick(rng, (', and ', '; '))}{dogs}", ""
        text += f" {later}."
    elif dogs and rng.random() < 0.25:
        text, dogs = f"{text[:-1]}{pick(rng, (', and ', '; '))}{dogs}.", ""
    if dogs:
        text += f" {dogs[0].upper()}{dogs[1:]}."
    text += rng.choices([end for end, _ in ENDS], [weight for _, weight in ENDS])[0]
    text = re.sub(r"\b([Aa])\(n\) (?=[aeiou]|8|11)", r"\1n ", text)
    return re.sub(r"\b([Aa])\(n\) ", r"\1 ", text)


def random_card(rng: random.Random) -> Card:
    """A walk drawn evenly from everything a card may say."""
    return Card(
        name=f"{rng.choice(FIRST)} {rng.choice(SECOND)}",
        length=rng.choice(LENGTHS),
        level=rng.choice(list(LEVELS)),
        start=rng.choice(STARTS),
        sight=rng.choice(SIGHTS),
        dogs=rng.choice(list(DOGS)),
    )


def slipped(rng: random.Random, card: Card) -> str:
    """A description with one slip in it: a wrong fact, only the first sentence, or a word gone wrong."""
    kind = rng.random()
    if kind < 0.5:
        other = random_card(rng)
        key = rng.choice(("name", "length", "level", "start", "sight", "dogs"))
        return describe(rng, replace(card, **{key: getattr(other, key)}))
    if kind < 0.7:
        return describe(rng, card).split(". ")[0].removesuffix(".") + "."
    words = describe(rng, card).split(" ")
    place = rng.randrange(len(words))
    if kind < 0.8:
        del words[place]
    elif kind < 0.9:
        words.insert(place, words[place])
    else:
        words = [ODD.get(word, word) for word in words]
    return " ".join(words)


def data_rows() -> list[dict[str, object]]:
    """The rows of data.jsonl, no two with the same name and village."""
    rng = random.Random(SEED)
    cards: dict[tuple[str, str], Card] = {}
    while len(cards) < ROWS:
        card = random_card(rng)
        cards.setdefault((card.name, card.start), card)
    rows = []
    for number, card in enumerate(cards.values()):
        references: list[str] = []
        while len(references) < REFERENCES:
            text = describe(rng, card)
            if text not in references:
                references.append(text)
        rows.append(
            {
                "id": f"walk-{number:03d}",
                "name": card.name,
                "length": f"{card.length} km",
                "level": card.level,
                "start": card.start,
                "sight": card.sight,
                "dogs": card.dogs,
                "references": references,
                "facts": facts(card),
            }
        )
    return rows


def texts(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of (user turn, description) to train on, none about a name-and-village pair of data.jsonl."""
    held = {(row["name"], row["start"]) for row in data_rows()}
    rng = random.Random(seed)
    while count:
        card = random_card(rng)
        if (card.name, card.start) in held:
            continue
        count -= 1
        yield card_prompt(card), slipped(rng, card) if rng.random() < SLIP_RATE else describe(rng, card)


def main() -> None:
    """Write data.jsonl, or with --preview print some training texts instead."""
    parser = argparse.ArgumentParser(description="Write data.jsonl.")
    parser.add_argument("--preview", action="store_true", help="print twenty training texts and write nothing")
    if parser.parse_args().preview:
        for prompt, text in texts(20, seed=1):
            print(prompt.replace("\n", " | "), "\n   ", text)
        return
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in data_rows()]
    (HERE / "data.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
