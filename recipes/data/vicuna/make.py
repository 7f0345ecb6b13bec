#!/usr/bin/env python3
"""Writes train.json and heldout.json beside it: python3 recipes/data/vicuna/make.py (no packages; seeded, the output is committed).

Conversations as ShareGPT's pages have them: answers in HTML, remnants of the page ("Copy code", "1 / 2"), some that begin with an answer or
end with a question, a few that are to be left out, and many that are longer than the recipe's max_length. Dishes, cities and
functions of held-out conversations occur in no other. Everything was written for this repository.
"""
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
CLASS = 'class="markdown prose w-full break-words dark:prose-invert light"'
FOODS = {"train": "soup salad omelette pancakes risotto curry stew".split(), "heldout": "pizza dumplings porridge".split()}
PARTS = "onions carrots rice eggs flour butter beans potatoes peas mushrooms lemons leeks".split()
TOOLS = "a large pot|a sharp knife|a wooden spoon|a deep pan|a sieve|a baking tray".split("|")
CITIES = {"train": "Oslo Porto Kraków Ghent Bilbao Turku Graz".split(), "heldout": "Lyon Bergen Split".split()}
SIGHTS = "the old harbour|the castle hill|the botanical garden|the covered market|the tram museum|the cathedral square|the river walk".split("|")
NAMES = {"train": "total largest count_even reversed_list".split(), "heldout": "mean_of shortest".split()}
CODE = {"total": ("adds the numbers of a list", "return sum(values)"), "mean_of": ("gives the mean of a list", "return sum(values) / len(values)"),
        "largest": ("finds the largest number", "return max(values)"), "count_even": ("counts the even numbers", "return sum(v % 2 == 0 for v in values)"),
        "reversed_list": ("turns a list round", "return values[::-1]"), "shortest": ("finds the shortest text", "return min(values, key=len)")}


def page(*parts):
    return f"<div {CLASS}>{''.join(parts)}</div>"


def items(tag, texts):
    return f"<{tag}>" + "".join(f"<li>{t}</li>" for t in texts) + f"</{tag}>"


def dish(r, split):
    food, parts, tool = r.choice(FOODS[split]), r.sample(PARTS, 3), r.choice(TOOLS)
    yield f"What do I need for {food} with {parts[0]}?", page(f"<p>For <strong>{food}</strong> with {parts[0]} you need:</p>", items("ul", [*parts, tool]))
    yield "And how do I make it?", page(f"<p>It takes three steps:</p>", items("ol", [f"Wash and cut the {parts[0]}.", f"Cook the {parts[1]} in {tool}.", f"Stir in the {parts[2]} and serve."]))
    n = r.randint(3, 9)
    yield f"How much of it for {n} people?", page(f"<p>For {n} people take <em>{n * 80} grams</em> of {parts[0]} and {n * 50} grams of {parts[1]}.</p>")


def trip(r, split):
    city, sights, days = r.choice(CITIES[split]), r.sample(SIGHTS, 3), r.randint(2, 5)
    yield f"I have {days} days in {city}. What should I see?", page(f"<p>In <strong>{city}</strong> you could see:</p>", items("ul", sights))
    yield "Which of them first?", page(f"<p>Begin with {sights[0]}: it is quiet in the morning. Then go on to {sights[1]}.</p>")
    yield "Summarise the plan in one sentence.", page(f"<p>In {city}, see {sights[0]} first, then {sights[1]}, and keep {sights[2]} for the last day.</p>")


def code(r, split):
    name = r.choice(NAMES[split])
    what, body = CODE[name]
    block = (f'<pre><div class="bg-black"><div class="flex"><span>python</span><button>Copy code</button></div><div><code class="hljs '
             f'language-python">def {name}(values):\n    {body}\n</code></div></pre>')
    yield f"Write a Python function that {what}.", page(f"<p>Here is a function that {what}:</p>", block)
    yield "What does it return for an empty list?", page(f"<p>For an empty list, look at <code>{body.removeprefix('return ')}</code>: test it before you rely on it.</p>")


def conversation(r, split, number):
    turns = []
    for topic in r.choices([dish, trip, code], k=r.choice([1, 2, 3, 4, 5])):
        for question, answer in topic(r, split):
            if r.random() < 0.1:
                question += "\nShare Prompt"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    if number % 9 == 1:
        turns.insert(0, {"from": "gpt", "value": page("<p>Hello! What can I do for you?</p>")})
    if number % 7 == 2:
        turns.append({"from": "human", "value": "Thank you!"})
    if number % 25 == 3:
        turns[-1] = {"from": "gpt", "value": "Too many requests in 1 hour. Try again later."}
    if number % 25 == 4:
        turns.insert(1, {"from": "human", "value": "Are you there?"})
    return {"id": f"own-{number:03}", "conversations": turns}


def write(split, count):
    r = random.Random("vicuna " + split)
    rows = [conversation(r, split, i) for i in range(count)]
    (HERE / f"{split}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(split, len(rows))


write("train", 80)
write("heldout", 12)
