#!/usr/bin/env python3
"""Writes train.jsonl and heldout.jsonl beside it: python3 recipes/data/alpaca/make.py (no packages; seeded, the output is committed).

Rows of Alpaca's form: an instruction, an input or none, the output. Everything was written for this repository. No held-out question is
in training, and two of the thirteen kinds are asked in a phrasing of their own there.
"""
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
TRAIN, HELDOUT = 40, 6
NAMES = "Asta Bruno Cleo Dario Edda Fynn Gesa Henrik Ilse Joris Karla Lasse Mira Nuno Orla Pia Quinn Runa Sven Thea Ulla Veit Wanda Yann".split()
THINGS = ("teapot lantern cushion ladder umbrella typewriter compass basket violin blanket kettle bookcase telescope backpack rug vase "
          "mirror armchair clock saddle canoe drum easel hammock").split()
COLOURS = "red green blue yellow white black grey brown".split()
FOODS = "lentils rice onions carrots butter apples cheese honey walnuts flour eggs spinach tomatoes beans oats pears yoghurt leeks".split()
PLACES = "Arnau Belvik Corden Dunmere Estrel Farholt Gravik Hollin Iskara Jorund".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
GOOD = "I would buy it again at once|it does its job every single day|my whole family enjoys it|it was worth the price".split("|")
BAD = "it fell apart within a week|nobody answered my complaint|I have sent it back|the paint came off at once".split("|")


def kinds(r):
    """Kind → a function that draws (instructions, input, output); of several instructions the last is for held-out rows."""
    thing, name, place = (lambda: r.choice(THINGS)), (lambda: r.choice(NAMES)), (lambda: r.choice(PLACES))

    def sort():
        words = r.sample(FOODS, 4)
        return ["Put the words in alphabetical order.", "Sort these words from A to Z.", "Arrange the list alphabetically."], ", ".join(words), ", ".join(sorted(words))

    def total():
        a, b = r.randint(2, 9), r.randint(2, 9)
        t = thing()
        return [f"A {t} costs {a} coins. What do {b} of them cost?"], "", f"{a * b} coins"

    def who():
        n, t, p = name(), thing(), place()
        text = f"{n} lent a {t} to {name()} in {p} on {r.choice(DAYS)}."
        return ["Who lent something? Answer with the name.", "Name the person who lent something."], text, n

    def where():
        n, t, p = name(), thing(), place()
        return ["Where does the sentence take place?", "Answer with the place that is named."], f"On {r.choice(DAYS)} {n} sold a {t} in {p}.", p

    def mood():
        good = r.random() < 0.5
        text = f"The {r.choice(COLOURS)} {thing()}: {r.choice(GOOD if good else BAD)}."
        return ["Is this review positive or negative?", "Classify the review as positive or negative.", "Did the customer like it? Say positive or negative."], text, "positive" if good else "negative"

    def plural():
        t = thing()
        return [f"Write \"one {t}\" for {(n := r.randint(2, 9))} of them."], "", f"{n} " + (t + "es" if t.endswith("s") else t[:-1] + "ves" if t.endswith("f") else t + "s")

    def passive():
        n, t = name(), thing()
        verb = r.choice("repaired painted cleaned wrapped carried measured".split())
        return ["Rewrite the sentence in the passive voice.", "Put this into the passive."], f"{n} {verb} the {t}.", f"The {t} was {verb} by {n}."

    def question():
        n, t = name(), thing()
        return ["Turn the statement into a yes-or-no question."], f"{n} has bought a {t}.", f"Has {n} bought a {t}?"

    def as_json():
        n, t, d = name(), thing(), r.choice(DAYS)
        return ["Write the order as JSON with the keys item, customer and day.", "Give item, customer and day of the order as a JSON object."], f"{n} ordered a {t} for {d}.", json.dumps({"item": t, "customer": n, "day": d})

    def shopping():
        foods = r.sample(FOODS, 3)
        return ["Make a bulleted list of what is to be bought.", "List the groceries, one a line, each after a dash."], f"We need {foods[0]}, {foods[1]} and {foods[2]}.", "\n".join(f"- {f}" for f in foods)

    def thanks():
        n, t = name(), thing()
        return [f"Write one sentence that thanks {n} for a {t}."], "", f"Dear {n}, thank you very much for the {t}."

    def next_day():
        i = r.randrange(7)
        return [f"Which day comes after {DAYS[i]}?"], "", DAYS[(i + 1) % 7]

    def capitals():
        words = f"{name()} and {name()} met in {place()}."
        return ["Write the sentence in capital letters."], words, words.upper()

    return [sort, total, who, where, mood, plural, passive, question, as_json, shopping, thanks, capitals, next_day]


def rows(split, taken):
    r, out = random.Random(f"alpaca {split}"), []
    for kind in kinds(r):
        found, tries = {}, 0
        while len(found) < (TRAIN if split == "train" else HELDOUT) and tries < 2000:
            tries += 1
            instructions, given, output = kind()
            known = instructions[:-1] if len(instructions) > 2 else instructions
            instruction = r.choice(known) if split == "train" else instructions[-1]
            if (instruction, given) not in taken and (given == "" or given not in {g for _, g in taken}):
                found[instruction, given] = output
        out += [{"instruction": i, "input": g, "output": o} for (i, g), o in found.items()]
        taken.update(found)
    r.shuffle(out)
    return out


taken = set()
for split in ("heldout", "train"):
    lines = rows(split, taken)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
    (HERE / f"{split}.jsonl").write_text(text, encoding="utf-8")
    print(split, len(lines))
