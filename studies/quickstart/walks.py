"""Owns what the cards of this study may say and the words for saying it; draws nothing (see make_data.py)."""

from __future__ import annotations

from dataclasses import dataclass

# fmt: off
FIRST = (
    "Heron", "Badger", "Foxglove", "Juniper", "Miller", "Pilgrim", "Shepherd", "Otter", "Kestrel", "Bramble", "Hazel",
    "Raven", "Clover", "Granite", "Lantern", "Willow", "Smuggler", "Thistle", "Copper", "Harvest", "Falcon", "Rowan",
    "Swallow", "Maple",
)
SECOND = ("Loop", "Path", "Way", "Trail", "Round", "Circuit")
STARTS = (
    "Aldbeck", "Brindle Cross", "Cawdale", "Dunmere", "Elmstow", "Farrowby", "Garside", "Hollin Bay", "Inkford",
    "Kelderby", "Larchfield", "Mossend", "Netherwick", "Orrin Green", "Pellworth", "Quenby", "Rushmoor", "Saltby",
    "Tarnside", "Wendle",
)
SIGHTS = (
    "the old watermill", "the ruined chapel", "the lily pond", "the tall viaduct", "the stone circle",
    "the hidden waterfall", "the white lighthouse", "the castle ruin", "the salt marsh", "the hanging bridge",
    "the apple orchards", "the chalk cliffs", "the bird hide", "the peat bog", "the beech wood", "the round tower",
    "the limestone cave", "the sand dunes", "the vineyard terraces", "the slate quarry",
)
# fmt: on
PLURAL = ("orchards", "cliffs", "dunes", "terraces")
LENGTHS = range(3, 15)
LEVELS = {
    "easy": ("easy", "gentle", "undemanding", "relaxed"),
    "moderate": ("moderate", "medium", "middling"),
    "hard": ("hard", "demanding", "strenuous", "tough"),
}
DOGS = {
    "": (),
    "welcome": (
        "dogs are welcome",
        "dogs may come along",
        "you can bring the dog",
        "four-legged friends are welcome",
        "it is open to dogs",
    ),
    "on a lead": (
        "dogs must be on a lead",
        "keep dogs on a lead",
        "dogs may come on a lead",
        "your dog has to stay on a lead",
        "please keep the dog on a lead",
    ),
    "not allowed": (
        "dogs are not allowed",
        "no dogs are allowed",
        "dogs have to stay at home",
        "leave the dog at home",
        "it is closed to dogs",
    ),
}


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of one walk; `dogs` may be empty, and then nothing is to be said of dogs."""

    name: str
    length: int
    level: str
    start: str
    sight: str
    dogs: str


def card_prompt(card: Card) -> str:
    """The user turn the model is trained on; the prompt of study.toml renders to the same text."""
    dogs = f"\nDogs: {card.dogs}" if card.dogs else ""
    return (
        f"Walk: {card.name}\nLength: {card.length} km\nLevel: {card.level}\n"
        f"Start: {card.start}\nSight: {card.sight}{dogs}"
    )


def facts(card: Card) -> list[str]:
    """The phrases a description has to hold, one entry a fact, accepted alternatives separated by a bar."""
    lengths = f"{card.length} km|{card.length} kilometres|{card.length}-kilometre"
    found = [card.name, lengths, "|".join(LEVELS[card.level]), card.start, card.sight]
    return [*found, "|".join(DOGS[card.dogs])] if card.dogs else found


# Every choice of words is listed from the commonest to the rarest; the n-th has weight 1 / n ** SKEW.
SKEW = 1.2
NOUN = ("walk", "route", "hike", "ramble", "outing")
PASSES = ("passes", "leads to", "takes you past", "runs by", "goes as far as", "winds along to")
FROM = ("from {start}", "out of {start}", "starting in {start}", "that begins at {start}")
JOURNEY = (
    "from {start} to {sight}",
    "from {start} with {sight} on the way",
    "that {begins} and {passes} {sight}",
    "from {start} past {sight}",
    "out of {start} by way of {sight}",
    "starting in {start}, with a stop at {sight}",
    "between {start} and {sight}",
)
BEGINS = (
    "starts in {start}",
    "sets off from {start}",
    "begins at {start}",
    "leaves from {start}",
    "has its start in {start}",
)
KM_NOUN = (
    "a(n) {level} {noun} of {km} km",
    "a(n) {level} {km} km {noun}",
    "a(n) {level} {km}-kilometre {noun}",
    "{km} kilometres of {level} walking",
)
OPENINGS = (
    # all four facts
    ("{Name} is {km_noun} {journey}.", "lvsw"),
    ("From {start}, {name} {passes} {sight}, {km_noun}.", "lvsw"),
    ("{Km_noun}, {name} {begins} and {passes} {sight}.", "lvsw"),
    ("At {km} km, {name} is a(n) {level} {noun} {journey}.", "lvsw"),
    # one or two are left for later
    ("{Name} is a(n) {level} {noun} {journey}.", "vsw"),
    ("{Name} {begins} and is {km_noun}.", "lvs"),
    ("Starting in {start}, {name} {passes} {sight}.", "sw"),
    ("{Km_noun}, {name} {passes} {sight}.", "lvw"),
    ("See {sight} on {name}, {km_noun}.", "lvw"),
    ("If you like a(n) {level} {noun}, try {name} {from}.", "vs"),
    ("{Name} {passes} {sight} and makes a(n) {level} {noun}.", "vw"),
    ("Anyone in {start} can tell you about {name}, {km_noun}.", "lvs"),
)
LATER = {
    "l": (
        "It is {km} km long",
        "Plan for {km} km",
        "The whole round is {km} km",
        "You cover {km} kilometres",
        "Count on {km} km",
    ),
    "w": (
        "It {passes} {sight}",
        "The highlight {is} {sight}",
        "On the way you see {sight}",
        "Look out for {sight}",
        "Do not miss {sight}",
    ),
    "s": ("It {begins}", "The start is in {start}", "You set out in {start}", "The first sign stands in {start}"),
    "lv": ("It is {km_noun}", "Expect {km_noun}", "Think of it as {km_noun}", "That makes {km_noun}"),
    "lw": (
        "It is {km} km long and {passes} {sight}",
        "Its {km} km lead to {sight}",
        "The {km} km take in {sight}",
        "After some of its {km} km you reach {sight}",
    ),
    "ls": (
        "It {begins} and is {km} km long",
        "It is {km} km, and the start is in {start}",
        "From {start} you cover {km} kilometres",
    ),
}
ENDS = (
    ("", 0.78),
    (" Bring good boots.", 0.08),
    (" It is well worth the trip.", 0.06),
    (" Take your time.", 0.05),
    (" Enjoy the quiet.", 0.03),
)
ODD = {
    "walk": "stroll",
    "passes": "visits",
    "km": "kms",
    "starts": "stars",
    "leads": "leaves",
    "with": "without",
    "from": "form",
}
