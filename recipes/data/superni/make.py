#!/usr/bin/env python3
"""Writes recipes/data/superni: python3 recipes/data/superni/make.py (no arguments; the output is committed).

Task files in the form of Super-NaturalInstructions (Wang et al. 2022, arXiv:2204.07705), a file a task, over the rows of
recipes/data/flan; definitions and outputs were written for this repository. test_tasks.txt names the tasks that are only
judged, as splits/default/test_tasks.txt of the public data set does; no category stands on both sides.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
ROWS = HERE.parent / "flan" / "rows"
EXAMPLES = 2

# Category -> task -> (definition, input, [outputs]); the two are formats over a row's fields.
TASKS = {
    "Word Semantics": {
        "antonyms": ("You are given a word. Write one word that means the opposite of it.", "{word}", ["{opposite}"]),
        "synonyms": ("You are given a word. Write one word that means nearly the same.", "{word}", ["{same}"]),
        "kind-of-thing": ("You are given the name of a thing. Say in one word what kind of thing it is.", "{word}", ["{kind}"]),
        "odd-one-out": ("Four things are listed, and one of them does not belong with the others. Write that one.", "{words}", ["{odd}"]),
    },
    "Grammar": {
        "plurals": ("In this task, you write the plural of the noun that is given.", "{noun}", ["{plural}"]),
        "past-tense": ("In this task, you write the simple past of the verb that is given.", "{verb}", ["{past}"]),
    },
    "Spelling": {
        "first-letter": ("Write the letter that the given word begins with, as a capital.", "{word}", ["{letter}"]),
        "last-letter": ("Write the letter that the given word ends with, as a capital.", "{word}", ["{letter}"]),
        "count-letters": ("Count the letters of the given word and answer with the number alone.", "{word}", ["{count}"]),
        "reverse-word": ("Write the given word backwards, letter by letter.", "{word}", ["{back}"]),
        "spell-out": ("Spell the given word: all its letters, with a hyphen between them.", "{word}", ["{letters}"]),
        "upper-case": ("Write the given word in capitals.", "{word}", ["{upper}"]),
    },
    "Mathematics": {
        "add": ("Two numbers are given. Answer with their sum.", "{a} and {b}", ["{sum}"]),
        "subtract": ("Two numbers are given. Answer with the first less the second.", "{a} and {b}", ["{difference}"]),
        "larger": ("Two numbers are given. Answer with the larger one.", "{a} and {b}", ["{larger}"]),
        "even-odd": ("Say whether the given number is even or odd.", "{n}", ["{parity}"]),
        "next-number": ("A series of numbers is given. Each is as far from the one before it. Write the next one.", "{series}", ["{next}"]),
        "sort-numbers": ("Write the given numbers again, the smallest first, with a comma and a space between them.", "{list}", ["{sorted}"]),
        "units": ("A quantity is given and a unit. Write the quantity in this unit, with the unit's name.", "{n} {from} in {to}", ["{answer}"]),
    },
    "Geography": {
        "capitals": ("You are given a country. Answer with its capital.", "{country}", ["{capital}"]),
        "continents": ("You are given a country. Answer with the continent on which it lies.", "{country}", ["{continent}"]),
    },
    "Sentiment Analysis": {
        "review-sentiment": ("You are given a customer's sentence about a thing. Classify it as \"positive\" or \"negative\".", "{review}", ["{label}"]),
        "recommend": ("You are given a customer's sentence about a thing. Would the customer recommend it? Answer \"yes\" or \"no\".", "{review}", ["{answer}"]),
    },
    "Translation": {
        "to-german": ("Translate the English word into German.", "{english}", ["{other}"]),
        "to-spanish": ("Translate the English word into Spanish.", "{english}", ["{other}"]),
        "to-finnish": ("Translate the English word into Finnish.", "{english}", ["{other}"]),
    },
    "Information Extraction": {
        "names-in-text": ("Two people are named in the text. Write their names in the order in which they occur, with a comma between them.", "{text}", ["{names}"]),
        "who-bought": ("Read the text and write the name of the person who bought something.", "{text}", ["{who}"]),
        "what-bought": ("Read the text and write what was bought, with its article.", "{text}", ["{thing}"]),
    },
}
# Never trained on.
TEST = {
    "Textual Entailment": {
        "entailment": (
            "A premise and a hypothesis are given. Answer \"entailment\" if the premise says that the hypothesis is true, "
            "\"contradiction\" if it says that it is false, and \"neutral\" if it says neither.",
            "Premise: {premise} Hypothesis: {hypothesis}", ["{label}"]),
        "true-false": ("A text and a claim about it are given. Answer \"true\" if the claim follows from the text, otherwise \"false\".",
                       "Text: {text} Claim: {claim}", ["{answer}"]),
    },
    "Question Answering": {
        "where-other": ("Read the text and answer the question with the name of a place.", "{text} Where did {other} stay?",
                        ["{where}", "at {where}", "{other} stayed at {where}."]),
        "tallest": ("Read the text and answer the question with a name.", "{text} Who is the tallest?", ["{tallest}"]),
    },
    "Sentence Rewriting": {
        "question-to-polite": ("Rewrite the command as a polite request that begins with \"Could you please\".", "{command}", ["{polite}"]),
        "initials": ("You are given a person's name. Write the initials, each with a full stop after it and a space between them.", "{name}", ["{initials}"]),
        "comma-list": ("Write the given words as a list: a comma between the first two, and the word \"and\" before the last.", "{words}", ["{list}"]),
    },
}


def document(name, category, definition, into, outputs):
    rows = [json.loads(line) for line in (ROWS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    instances = {into.format(**row): [output.format(**row) for output in outputs] for row in rows}
    instances = list(instances.items())
    examples = [{"input": text, "output": out[0], "explanation": ""} for text, out in instances[:EXAMPLES]]
    rest = [{"id": f"{name}-{i}", "input": text, "output": out} for i, (text, out) in enumerate(instances[EXAMPLES:])]
    return {
        "Contributors": ["lorakit"], "Source": ["lorakit"], "Categories": [category], "Definition": [definition],
        "Input_language": ["English"], "Output_language": ["English"], "Instruction_language": ["English"],
        "Positive Examples": examples, "Negative Examples": [], "Instances": rest,
    }


def lines(document):
    """JSON with an instance a line."""
    parts = []
    for key, value in document.items():
        rows = value if key.endswith(("Examples", "Instances")) else None
        text = json.dumps(value, ensure_ascii=False)
        if rows:
            text = "[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write():
    assert not set(TASKS) & set(TEST), "a category is on both sides"
    (HERE / "tasks").mkdir(exist_ok=True)
    for old in (HERE / "tasks").glob("*.json"):
        old.unlink()
    test, count = [], 0
    for split in (TASKS, TEST):
        for category, tasks in split.items():
            for name, (definition, into, outputs) in tasks.items():
                count += 1
                stem = f"task{count:02d}_{name.replace('-', '_')}"
                text = lines(document(name, category, definition, into, outputs))
                assert json.loads(text)["Instances"]
                (HERE / "tasks" / f"{stem}.json").write_text(text, encoding="utf-8")
                test += [stem] if split is TEST else []
    (HERE / "test_tasks.txt").write_text("\n".join(test) + "\n", encoding="utf-8")
    print(f"{count} tasks, {len(test)} of them for judging")


if __name__ == "__main__":
    write()
