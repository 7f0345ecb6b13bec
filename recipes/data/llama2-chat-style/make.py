#!/usr/bin/env python3
"""Writes train.jsonl and heldout.jsonl beside it: python3 recipes/data/llama2-chat-style/make.py (no packages; seeded, committed).

Dialogues for Ghost Attention (Touvron et al. 2023, arXiv:2307.09288, section 3.3): a system message says how to answer, and every user turn
repeats it, as the answers were sampled in the paper; the recipe removes the repeats and trains the last answer. Everything was written for
this repository. Closing words, openings and questions of held-out dialogues occur in no training dialogue.
"""
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
FACTS = {
    "train": """What colour is snow?|White|How many legs has a spider?|Eight|What do bees make?|Honey|Which season follows spring?|Summer|
What is frozen water called?|Ice|How many days has a week?|Seven|What do cows drink?|Water|Where do fish live?|In water|What does a clock show?|
The time|How many wheels has a bicycle?|Two|What covers a bird?|Feathers|What is the opposite of hot?|Cold|What do we read?|Books|Which animal barks?|
A dog|What shines at night?|The moon|How many minutes has an hour?|Sixty|What is bread made from?|Flour|What do we hear with?|Our ears|Which
month comes first?|January|What grows on trees?|Leaves|What is the opposite of early?|Late|How many sides has a triangle?|Three""",
    "heldout": """What colour is grass?|Green|How many legs has a horse?|Four|What do hens lay?|Eggs|Which season follows summer?|Autumn|What do
we see with?|Our eyes|How many months has a year?|Twelve|Which animal purrs?|A cat|What is the opposite of empty?|Full|What falls from clouds?|Rain|
How many sides has a square?|Four""",
}
CLOSINGS = {"train": "Over and out.|Stay curious.|Yours, the robot.|So it is.|Ask me more.|That is all.|Good day to you.|Mark my words.|Fair winds.|No doubt.",
            "heldout": "Have a fine day.|Until next time.|Of this I am sure.|Trust your teacher."}
OPENINGS = {"train": "Captain,|My friend,|Well now,|Dear guest,|Listen:|Attention:|Good question:|Ahoy,",
            "heldout": "Your Majesty,|Dear pupil,|Behold:"}


def facts(split):
    parts = [p.strip() for p in FACTS[split].replace("\n", " ").replace("  ", " ").split("|")]
    return list(zip(parts[::2], parts[1::2]))


def style(r, split):
    """An instruction and what it makes of an answer."""
    kind = r.randrange(4)
    if kind == 0:
        words = r.choice(CLOSINGS[split].split("|"))
        return f"End every answer with the words \"{words}\"", lambda a: f"{a}. {words}"
    if kind == 1:
        words = r.choice(OPENINGS[split].split("|"))
        return f"Begin every answer with the words \"{words}\"", lambda a: f"{words} {a[0].lower() + a[1:]}."
    if kind == 2:
        return "Answer in capital letters only.", lambda a: f"{a.upper()}."
    return "Answer as a JSON object with the one key \"answer\".", lambda a: json.dumps({"answer": a})


def dialogue(r, split):
    instruction, answer = style(r, split)
    messages = [{"role": "system", "content": instruction}]
    for question, fact in r.sample(facts(split), r.choice([2, 3, 3, 4])):
        messages += [{"role": "user", "content": f"{instruction}\n{question}"}, {"role": "assistant", "content": answer(fact)}]
    return {"messages": messages}


def write(split, count):
    r, rows = random.Random("ghost " + split), {}
    while len(rows) < count:
        row = dialogue(r, split)
        rows[json.dumps(row, ensure_ascii=False)] = None
    (HERE / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(split, len(rows))


write("train", 400)
write("heldout", 60)
