#!/usr/bin/env python3
"""Writes the task files and rows of recipes/data/flan: python3 recipes/data/flan/make.py (no arguments; the output is committed).

Small tasks, a folder a cluster, each with several phrasings, in the manner of FLAN (Wei et al. 2021, arXiv:2109.01652, section 2.1). The
word lists in words.py were written for this repository.
"""

import json
import random
from pathlib import Path

from words import *

HERE = Path(__file__).parent
ROWS = 60
TASKS = []


def task(cluster, name, rows, templates, invert=(), options=None):
    """A task: rows of named fields; templates as (inputs, targets); `invert`: templates that ask the other way round."""
    TASKS.append((cluster, name, rows, templates, invert, options))


def rng(name):
    return random.Random("flan " + name)


def pick(name, rows):
    rows = list(rows)
    rng(name).shuffle(rows)
    return rows[:ROWS]


def of_pairs(name, text, a, b):
    return pick(name, [{a: x, b: y} for x, y in pairs(text)])


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


# --- words -----------------------------------------------------------------------------------------------------------
task("words", "antonyms", of_pairs("antonyms", ANTONYMS, "word", "opposite"), [
    ("What is the opposite of \"{word}\"?", "{opposite}"),
    ("Give an antonym of {word}.", "{opposite}"),
    ("Write one word that means the opposite of the word below.\n\n{word}", "{opposite}"),
], [("Name a word whose opposite is \"{opposite}\".", "{word}")])
task("words", "synonyms", of_pairs("synonyms", SYNONYMS, "word", "same"), [
    ("Give another word for \"{word}\".", "{same}"),
    ("Which word means nearly the same as {word}?", "{same}"),
    ("Word: {word}\nSynonym:", "{same}"),
])
task("words", "plurals", of_pairs("plurals", PLURALS, "noun", "plural"), [
    ("Write the plural of \"{noun}\".", "{plural}"),
    ("One {noun}, two …? Answer with one word.", "{plural}"),
    ("Turn this noun into its plural form: {noun}", "{plural}"),
], [("\"{plural}\" is the plural of which noun?", "{noun}")])
task("words", "past-tense", of_pairs("past-tense", PAST, "verb", "past"), [
    ("What is the simple past of \"{verb}\"?", "{past}"),
    ("Today I {verb}, yesterday I …? Write the missing word.", "{past}"),
    ("Verb: {verb}\nPast tense:", "{past}"),
], [("Which verb has the past tense \"{past}\"? Give its base form.", "{verb}")])
task("words", "young-animals", of_pairs("young-animals", ANIMAL_YOUNG, "animal", "young"), [
    ("What do you call a young {animal}?", "{young}"),
    ("Name the young of this animal: {animal}", "{young}"),
    ("Adult: {animal}. Young:", "{young}"),
])

# --- letters ---------------------------------------------------------------------------------------------------------
WORDS = sorted({w for text in (ANTONYMS, SYNONYMS, PLURALS) for pair in pairs(text) for w in pair if w.isalpha()})


def words(name, n=ROWS):
    return rng(name).sample(WORDS, n)


task("letters", "first-letter", [{"word": w, "letter": w[0].upper()} for w in words("first-letter")], [
    ("What is the first letter of \"{word}\"?", "{letter}"),
    ("Write the letter that {word} begins with, as a capital.", "{letter}"),
    ("{word}\n\nFirst letter of the word above:", "{letter}"),
])
task("letters", "last-letter", [{"word": w, "letter": w[-1].upper()} for w in words("last-letter")], [
    ("What is the last letter of \"{word}\"?", "{letter}"),
    ("Which letter does {word} end with? Write a capital.", "{letter}"),
    ("Give the final letter of this word: {word}", "{letter}"),
])
task("letters", "spell-out", [{"word": w, "letters": "-".join(w)} for w in words("spell-out")], [
    ("Spell the word \"{word}\" with hyphens between the letters.", "{letters}"),
    ("Write {word} letter by letter, like a-b-c.", "{letters}"),
], [("Join the letters to a word: {letters}", "{word}")])
task("letters", "reverse-word", [{"word": w, "back": w[::-1]} for w in words("reverse-word")], [
    ("Write \"{word}\" backwards.", "{back}"),
    ("Reverse the order of the letters: {word}", "{back}"),
    ("Read {word} from right to left. What do you get?", "{back}"),
])
task("letters", "upper-case", [{"word": w, "upper": w.upper()} for w in words("upper-case")], [
    ("Write this word in capital letters: {word}", "{upper}"),
    ("Convert \"{word}\" to upper case.", "{upper}"),
], [("Write this word in small letters: {upper}", "{word}")])
task("letters", "count-letters", [{"word": w, "count": str(len(w))} for w in words("count-letters")], [
    ("How many letters has the word \"{word}\"?", "{count}"),
    ("Count the letters of {word}. Answer with a number.", "{count}"),
    ("Word: {word}\nNumber of letters:", "{count}"),
])

# --- numbers ---------------------------------------------------------------------------------------------------------


def numbers(name, make):
    r, seen, rows = rng(name), set(), []
    while len(rows) < ROWS:
        row = make(r)
        key = json.dumps(row)
        if key not in seen:
            seen.add(key)
            rows.append({k: str(v) for k, v in row.items()})
    return rows


def two(r, low, high, name, f):
    a, b = r.randint(low, high), r.randint(low, high)
    return {"a": a, "b": b, name: f(a, b)}


task("numbers", "add", numbers("add", lambda r: two(r, 1, 99, "sum", lambda a, b: a + b)), [
    ("What is {a} + {b}?", "{sum}"), ("Add {a} and {b}.", "{sum}"), ("Find the sum of {a} and {b}. Answer with the number alone.", "{sum}"),
])
task("numbers", "subtract", numbers("subtract", lambda r: (lambda a, b: {"a": a + b, "b": b, "difference": a})(r.randint(1, 60), r.randint(1, 60))), [
    ("What is {a} - {b}?", "{difference}"), ("Take {b} away from {a}.", "{difference}"), ("{a} minus {b} is", "{difference}"),
])
task("numbers", "larger", numbers("larger", lambda r: two(r, 1, 999, "larger", max)), [
    ("Which number is larger, {a} or {b}?", "{larger}"), ("Pick the bigger one: {a}, {b}", "{larger}"), ("Write the maximum of {a} and {b}.", "{larger}"),
])
task("numbers", "even-odd", numbers("even-odd", lambda r: (lambda n: {"n": n, "parity": "odd" if n % 2 else "even"})(r.randint(1, 500))), [
    ("Is {n} even or odd?", "{parity}"), ("Say whether this number is even or odd: {n}", "{parity}"), ("{n} is an … number.", "{parity}"),
], options=["even", "odd"])
task("numbers", "next-number", numbers("next-number", lambda r: (lambda s, d: {"series": ", ".join(str(s + d * i) for i in range(4)), "next": s + 4 * d})(r.randint(1, 40), r.randint(1, 9))), [
    ("Continue the series: {series}, …", "{next}"), ("Which number comes next? {series}", "{next}"), ("Series: {series}\nNext:", "{next}"),
])
task("numbers", "sort-numbers", numbers("sort-numbers", lambda r: (lambda l: {"list": ", ".join(map(str, l)), "sorted": ", ".join(map(str, sorted(l)))})(r.sample(range(1, 99), 4))), [
    ("Sort these numbers from small to large: {list}", "{sorted}"), ("Put in ascending order: {list}", "{sorted}"), ("{list}\n\nThe same numbers, smallest first:", "{sorted}"),
])
UNITS = [("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("kilograms", "grams", 1000), ("hours", "minutes", 60), ("minutes", "seconds", 60), ("litres", "millilitres", 1000), ("weeks", "days", 7), ("days", "hours", 24)]
task("numbers", "units", numbers("units", lambda r: (lambda n, u: {"n": n, "from": u[0], "to": u[1], "answer": f"{n * u[2]} {u[1]}"})(r.randint(2, 12), r.choice(UNITS))), [
    ("Convert {n} {from} to {to}.", "{answer}"), ("How many {to} are {n} {from}?", "{answer}"), ("{n} {from} =", "{answer}"),
])
MONTHS = "January February March April May June July August September October November December".split()
task("numbers", "dates", numbers("dates", lambda r: (lambda y, m, d: {"date": f"{d} {MONTHS[m - 1]} {y}", "iso": f"{y:04}-{m:02}-{d:02}"})(r.randint(1900, 2030), r.randint(1, 12), r.randint(1, 28))), [
    ("Write this date as YYYY-MM-DD: {date}", "{iso}"), ("Convert {date} to ISO 8601.", "{iso}"),
], [("Write {iso} with the month as a word, like 3 May 2001.", "{date}")])

# --- geography -------------------------------------------------------------------------------------------------------
task("geography", "capitals", of_pairs("capitals", CAPITALS, "country", "capital"), [
    ("What is the capital of {country}?", "{capital}"), ("Name the capital city of {country}.", "{capital}"), ("Country: {country}\nCapital:", "{capital}"),
], [("Which country has {capital} as its capital?", "{country}")])
task("geography", "continents", of_pairs("continents", CONTINENTS, "country", "continent"), [
    ("On which continent is {country}?", "{continent}"), ("{country} lies in", "{continent}"), ("Name the continent of this country: {country}", "{continent}"),
], options=["Africa", "Asia", "Europe", "North America", "South America"])

# --- classification --------------------------------------------------------------------------------------------------
kinds = [{"word": w, "kind": k} for k, ws in CATEGORIES.items() for w in ws.split()]
task("classification", "kind-of-thing", pick("kind-of-thing", kinds), [
    ("What kind of thing is a {word}?", "{kind}"), ("Sort \"{word}\" into a category.", "{kind}"), ("{word}: which group does it belong to?", "{kind}"),
], options=sorted(CATEGORIES))


def odd_one(r):
    kind, other = r.sample(sorted(CATEGORIES), 2)
    odd = r.choice(CATEGORIES[other].split())
    words = r.sample(CATEGORIES[kind].split(), 3) + [odd]
    r.shuffle(words)
    return {"words": ", ".join(words), "odd": odd}


task("classification", "odd-one-out", numbers("odd-one-out", odd_one), [
    ("Which word does not belong? {words}", "{odd}"), ("Find the odd one out: {words}", "{odd}"), ("{words}\n\nThree of these belong together. Which one does not?", "{odd}"),
])


def review(r, label):
    thing = r.choice(OBJECTS).split(" ", 1)[1]
    return {"review": f"{r.choice(['The', 'This', 'My new'])} {thing} {r.choice(GOOD if label == 'positive' else BAD)}.", "label": label}


task("sentiment", "review-sentiment", numbers("review-sentiment", lambda r: review(r, r.choice(["positive", "negative"]))), [
    ("Is this review positive or negative?\n\n{review}", "{label}"), ("{review}\n\nWhat does the writer feel about it?", "{label}"), ("Review: {review}\nSentiment:", "{label}"),
], [("Write a short {label} review.", "{review}")], options=["negative", "positive"])
task("sentiment", "recommend", numbers("recommend", lambda r: (lambda x: {"review": x["review"], "answer": "yes" if x["label"] == "positive" else "no"})(review(r, r.choice(["positive", "negative"])))), [
    ("\"{review}\" Would this customer buy it again?", "{answer}"), ("{review}\nDoes the customer recommend it? yes or no", "{answer}"),
], options=["no", "yes"])

# --- reading ---------------------------------------------------------------------------------------------------------


def scene(r):
    (who, other), (place, where), thing = r.sample(NAMES, 2), r.sample(PLACES, 2), r.choice(OBJECTS)
    text = f"{who} went to {place} and bought {thing}. {other} stayed at {where}."
    return {"text": text, "who": who, "other": other, "place": place, "thing": thing, "where": where}


def keep(row, *fields):
    return {k: row[k] for k in fields}


task("reading", "who-bought", numbers("who-bought", lambda r: keep(scene(r), "text", "who")), [
    ("{text}\n\nWho bought something?", "{who}"), ("Read and answer with a name. {text} Who bought something?", "{who}"), ("Text: {text}\nQuestion: Who made a purchase?\nAnswer:", "{who}"),
])
task("reading", "what-bought", numbers("what-bought", lambda r: keep(scene(r), "text", "thing")), [
    ("{text}\n\nWhat was bought?", "{thing}"), ("{text} Which thing was bought?", "{thing}"), ("Text: {text}\nQuestion: What was bought?\nAnswer:", "{thing}"),
])
task("reading", "where-other", numbers("where-other", lambda r: keep(scene(r), "text", "other", "where")), [
    ("{text}\n\nWhere is {other}?", "{where}"), ("{text} Name the place where {other} is.", "{where}"), ("Text: {text}\nQuestion: Where did {other} stay?\nAnswer:", "{where}"),
])
task("reading", "names-in-text", numbers("names-in-text", lambda r: (lambda s: {"text": s["text"], "names": f"{s['who']}, {s['other']}"})(scene(r))), [
    ("List the people in this text, separated by commas.\n\n{text}", "{names}"), ("{text}\n\nWhich people are named?", "{names}"),
])

# --- inference -------------------------------------------------------------------------------------------------------


def entail(r):
    s, label = scene(r), r.choice(["entailment", "contradiction", "neutral"])
    claim = {
        "entailment": f"{s['who']} bought {s['thing']}.",
        "contradiction": f"{s['other']} went to {s['place']}.",
        "neutral": f"{s['who']} likes {s['other']}.",
    }[label]
    return {"premise": s["text"], "hypothesis": claim, "label": label}


task("inference", "entailment", numbers("entailment", entail), [
    ("Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?", "{label}"),
    ("{premise}\n\nGiven the text above, what about this sentence: \"{hypothesis}\"?", "{label}"),
    ("{premise}\nStatement: {hypothesis}\nRelation of the statement to the text:", "{label}"),
], options=["contradiction", "entailment", "neutral"])
task("inference", "true-false", numbers("true-false", lambda r: (lambda e: {"text": e["premise"], "claim": e["hypothesis"], "answer": "true" if e["label"] == "entailment" else "false"})((lambda: next(x for x in iter(lambda: entail(r), None) if x["label"] != "neutral"))())), [
    ("{text}\n\nTrue or false: {claim}", "{answer}"), ("{text} Is it true that the following holds? {claim}", "{answer}"),
], options=["false", "true"])


def taller(r):
    a, b, c = r.sample(NAMES, 3)
    return {"text": f"{a} is taller than {b}. {b} is taller than {c}.", "tallest": a, "shortest": c}


task("inference", "tallest", numbers("tallest", lambda r: keep(taller(r), "text", "tallest")), [
    ("{text} Who is the tallest?", "{tallest}"), ("{text}\n\nName the tallest person.", "{tallest}"), ("Given: {text}\nTallest:", "{tallest}"),
])

# --- translation -----------------------------------------------------------------------------------------------------
for language, text in TRANSLATE.items():
    task("translation", f"to-{language.lower()}", of_pairs(language, text, "english", "other"), [
        (f"What is the {language} word for \"{{english}}\"?", "{other}"),
        (f"Translate into {language}: {{english}}", "{other}"),
        (f"English: {{english}}\n{language}:", "{other}"),
    ], [(f"Translate this {language} word into English: {{other}}", "{english}")])

# --- rewriting -------------------------------------------------------------------------------------------------------
task("rewriting", "question-to-polite", numbers("polite", lambda r: (lambda v, o: {"command": f"{v} {o}.", "polite": f"Could you please {v.lower()} {o}?"})(r.choice("Bring Find Send Show Repair Clean Pack Move Sell Paint".split()), r.choice(["the lamp", "the kettle", "my coat", "the notebook", "the bicycle", "the suitcase", "the radio", "the blanket"]))), [
    ("Make this polite: {command}", "{polite}"), ("Rewrite the command as a polite request.\n\n{command}", "{polite}"),
], [("Shorten this to a plain command: {polite}", "{command}")])
task("rewriting", "initials", numbers("initials", lambda r: (lambda a, b: {"name": f"{a} {b}", "initials": f"{a[0]}. {b[0]}."})(r.choice(NAMES), r.choice("Berg Costa Dahl Evans Fischer Gray Hansen Ito Jones Keller Lind Moore".split()))), [
    ("Write the initials of {name}.", "{initials}"), ("Name: {name}\nInitials:", "{initials}"),
])
task("rewriting", "comma-list", numbers("comma-list", lambda r: (lambda w: {"words": " ".join(w), "list": f"{w[0]}, {w[1]} and {w[2]}"})(r.sample([w for ws in CATEGORIES.values() for w in ws.split()], 3))), [
    ("Write these words as a list with commas and \"and\": {words}", "{list}"), ("Join with commas: {words}", "{list}"),
])


def write():
    for old in [*HERE.glob("*/*.toml"), *HERE.glob("rows/*.jsonl")]:
        old.unlink()
    (HERE / "rows").mkdir(exist_ok=True)
    for cluster, name, rows, templates, invert, options in TASKS:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (HERE / "rows" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        out = ["# Written by make.py.", f"name = {quoted(name)}", f"cluster = {quoted(cluster)}", f"data = {quoted(f'../rows/{name}.jsonl')}"]
        if options:
            out.append(f"options = {json.dumps(options, ensure_ascii=False)}")
        for inverted, group in ((False, templates), (True, invert)):
            for inputs, targets in group:
                inputs += "\n\n{options}" if options and not inverted else ""
                out += ["", "[[templates]]", f"inputs = {quoted(inputs)}", f"targets = {quoted(targets)}"]
                out += ["invert = true"] if inverted else []
        (HERE / cluster).mkdir(exist_ok=True)
        (HERE / cluster / f"{name}.toml").write_text("\n".join(out) + "\n", encoding="utf-8")
    print(f"{len(TASKS)} tasks, {sum(len(t[2]) for t in TASKS)} rows, {sum(len(t[3]) + len(t[4]) for t in TASKS)} templates")


if __name__ == "__main__":
    write()
