"""Write the demo's conversations: short chats in the words of very small stories.

The rows are ours: every sentence is composed here from the word lists below, so that a model of
260,000 parameters that knows children's stories can learn to answer in minutes. Running this again
gives the same file, byte for byte:

    python tools/make_demo_conversations.py inlay/app/demo_data/conversations.json
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

Turns = list[str]  # question, answer, question, answer, ...

GIRLS = ["Lily", "Mia", "Sue", "Anna", "Lucy", "Amy", "Sara", "Jane"]
BOYS = ["Tim", "Tom", "Ben", "Max", "Sam", "Jack", "Bob", "Billy"]
ANIMALS = ["dog", "cat", "bird", "bunny", "bear", "fish", "frog", "duck", "mouse", "cow", "pig"]
KINDS = ["little", "big", "happy", "kind", "funny", "brave"]
PLACES = ["park", "garden", "forest", "yard", "house"]
COLORS = ["red", "blue", "green", "yellow", "pink"]
SIZES = ["big", "small", "little"]
TOYS = ["ball", "car", "doll", "hat", "box", "book", "boat", "kite"]
GAMES = [("play", "played"), ("run", "ran"), ("jump", "jumped"), ("sing", "sang")]
HELPERS = ["mom", "dad", "friend", "grandma"]
TROUBLES = [
    ("it was too high", "reached up and got the {toy}"),
    ("it was very dirty", "washed the {toy}"),
    ("it was broken", "fixed the {toy}"),
    ("she could not find it", "found the {toy} under the bed"),
]
ASK_STORY = [
    "Tell me a story about a {it}.",
    "Can you tell me a story about a {it}?",
    "I want a story about a {it}.",
    "Please tell me a story about a {it}.",
]
FEELINGS = [
    ("lost {his} toy", "sad"),
    ("got a new toy", "happy"),
    ("saw a big bear", "scared"),
    ("ran all day", "tired"),
    ("made a cake with {his} mom", "happy"),
    ("fell down in the park", "sad"),
    ("could not find {his} dog", "sad"),
    ("found {his} cat", "happy"),
    ("heard a loud noise", "scared"),
    ("played in the park all day", "tired"),
]
SOUNDS = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "pig": "oink"}
FACTS = {
    "What color is the sky?": "The sky is blue.",
    "What color is the sun?": "The sun is yellow.",
    "What color is the grass?": "The grass is green.",
    "Where do fish live?": "Fish live in the water.",
    "Where do birds live?": "Birds live in the trees.",
    "What can a bird do?": "A bird can fly in the sky.",
    "What can a fish do?": "A fish can swim in the water.",
    "What can a frog do?": "A frog can jump very high.",
    "What do bunnies eat?": "Bunnies like to eat carrots.",
    "When do we sleep?": "We sleep at night.",
    "What is in the sky at night?": "The moon and the stars are in the sky at night.",
}
GREETINGS = ["Hello!", "Hi!", "Hi there!", "Hello there!", "Good morning!", "Hello, friend!"]
WHO = ["Who are you?", "What is your name?", "What are you?", "Tell me who you are."]
THANKS = ["Thank you!", "Thank you for the story!", "That was fun!", "I like that story!"]
I_AM = "I am Inlay, a small story teller. I like to tell stories."
WELCOME = "Hello! I am happy to see you. Do you want to hear a story?"
BYE = "Good bye! Come back and we will read a story."
GLAD = "You are welcome! I am glad you like it."


def animal_story(pick: random.Random) -> Turns:
    """An animal meets another one: the story, and often a question about it."""
    animal, other = pick.sample(ANIMALS, 2)
    kind, other_kind = pick.sample(KINDS, 2)
    name = pick.choice(GIRLS + BOYS)
    place = pick.choice(PLACES)
    game, played = pick.choice(GAMES)
    story = (
        f"Once upon a time, there was a {kind} {animal} named {name}. "
        f"{name} loved to {game} in the {place}. "
        f"One day, {name} met a {other_kind} {other}. "
        f"They {played} in the {place} all day. {name} and the {other} were best friends."
    )
    later = [
        (f"What was the name of the {animal}?", f"The name of the {animal} was {name}."),
        (f"Who did {name} meet?", f"{name} met a {other_kind} {other}."),
        (f"Where did {name} {game}?", f"{name} {played} in the {place}."),
        (pick.choice(THANKS), GLAD),
    ]
    return [pick.choice(ASK_STORY).format(it=animal), story, *_sometimes(pick, later)]


def toy_story(pick: random.Random) -> Turns:
    """A child, a toy, a trouble and a helper: the story, and often a question about it."""
    girl = pick.random() < 0.5
    name = pick.choice(GIRLS if girl else BOYS)
    he, his, him, child = ("she", "her", "her", "girl") if girl else ("he", "his", "him", "boy")
    toy, color, size = pick.choice(TOYS), pick.choice(COLORS), pick.choice(SIZES)
    helper = pick.choice(HELPERS)
    trouble, help_ = pick.choice(TROUBLES)
    story = (
        f"One day, a little {child} named {name} had a {size} {color} {toy}. "
        f"{name} wanted to play with the {toy}, but {trouble.replace('she', he)}. "
        f"{name} was sad. {his.title()} {helper} came to help {him}. "
        f"{his.title()} {helper} {help_.format(toy=toy)}. "
        f'{name} smiled and said, "Thank you, {helper}!"'
    )
    later = [
        (f"Who helped {name}?", f"{his.title()} {helper} helped {name}."),
        (f"What color was the {toy}?", f"The {toy} was {color}."),
        (f"Was {name} happy?", f"Yes, {name} was very happy."),
        (pick.choice(THANKS), GLAD),
    ]
    asked = pick.choice([toy, f"{child} and a {toy}", f"{color} {toy}"])
    return [pick.choice(ASK_STORY).format(it=asked), story, *_sometimes(pick, later)]


def reading(pick: random.Random) -> Turns:
    """One sentence, and what can be read from it."""
    name, thing = pick.choice(GIRLS + BOYS), pick.choice(TOYS + ANIMALS)
    color, place = pick.choice(COLORS), pick.choice(PLACES)
    told = f"{name} saw a {color} {thing} in the {place}."
    asked = {
        f"What did {name} see?": f"{name} saw a {color} {thing}.",
        f"Where was the {thing}?": f"The {thing} was in the {place}.",
        f"What color was the {thing}?": f"The {thing} was {color}.",
    }
    turns: Turns = []
    for question in pick.sample(sorted(asked), 2):
        turns += [question if turns else f"{told} {question}", asked[question]]
    return turns


def feeling(pick: random.Random) -> Turns:
    """What happened to a child, and how that feels."""
    girl = pick.random() < 0.5
    name = pick.choice(GIRLS if girl else BOYS)
    event, mood = pick.choice(FEELINGS)
    event = event.format(his="her" if girl else "his")
    return [f"{name} {event}. How did {name} feel?", f"{name} was very {mood}."]


def small_talk(pick: random.Random) -> Turns:
    """A greeting, who is there, a fact, a good bye: some of them, in this order."""
    parts = [(pick.choice(GREETINGS), WELCOME), (pick.choice(WHO), I_AM), _fact(pick)]
    parts += [(pick.choice(["Bye!", "Good bye!", "Good night!"]), BYE)]
    kept = sorted(pick.sample(range(len(parts)), pick.choice([1, 2, 2, 3])))
    return [text for i in kept for text in parts[i]]


def _fact(pick: random.Random) -> tuple[str, str]:
    if pick.random() < 0.5:
        animal = pick.choice(sorted(SOUNDS))
        return f"What does a {animal} say?", f"A {animal} says {SOUNDS[animal]}."
    return pick.choice(sorted(FACTS.items()))


def _sometimes(pick: random.Random, later: list[tuple[str, str]]) -> Turns:
    """Return none, one or two of the turns that can follow a story."""
    kept = sorted(pick.sample(range(len(later)), pick.choice([0, 1, 1, 2])))
    return [text for i in kept for text in later[i]]


PLAN: list[tuple[Callable[[random.Random], Turns], int]] = [
    (animal_story, 160),
    (toy_story, 160),
    (reading, 80),
    (feeling, 50),
    (small_talk, 90),
]


def conversations() -> list[dict[str, list[dict[str, str]]]]:
    """Return the rows in the OpenAI messages format, all different, in a fixed shuffled order."""
    pick = random.Random(0)
    rows = [turns for make, count in PLAN for turns in islice(_different(make, pick), count)]
    pick.shuffle(rows)
    roles = ["user", "assistant"]
    return [
        {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}
        for turns in rows
    ]


def _different(make: Callable[[random.Random], Turns], pick: random.Random) -> Iterator[Turns]:
    seen = set()
    while True:
        turns = make(pick)
        if tuple(turns) not in seen:
            seen.add(tuple(turns))
            yield turns


def text() -> str:
    """Return the file's text: a JSON array with one conversation a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in conversations()]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
