"""Generates recipes/data/ticket-triage: short customer messages -> a small JSON object.

`triage` is the rule: it reads a message and nothing else, and every row is checked against it.
Each slot of a held-out row (product, problem, cue, greeting, name, sentence order) has a chance of a filler that no training
row has; order numbers are even in training and odd in held-out rows.
"""
import json
import random
from functools import partial

from jsonl import unique, write_splits

# Problem wordings, {p} = product. The first list of each pair is for training, the second only for held-out rows.
PROBLEMS = {
    "billing": (
        ["I was charged twice for the {p}", "the invoice for my {p} is wrong", "my card was billed too much for the {p}",
         "the bill for the {p} shows the wrong amount", "you took the payment for the {p} two times",
         "I need a corrected invoice for the {p}", "the discount is missing on my {p} invoice",
         "why is there an extra fee on the bill for my {p}?", "the price I paid for the {p} is not what you advertised"],
        ["my card was charged double for the {p}", "there is an unknown fee on my {p} invoice",
         "the amount on the bill for the {p} is too high"]),
    "delivery": (
        ["my {p} has not arrived yet", "where is the parcel with my {p}?", "the {p} was sent to the wrong address",
         "tracking for my {p} has not moved in days", "the courier never came with the {p}",
         "my {p} is still not here", "the parcel with the {p} is lost", "when will the {p} be delivered?",
         "the package with my {p} is a week late"],
        ["my {p} did not arrive", "the courier lost the parcel with my {p}",
         "my {p} was delivered to the wrong house"]),
    "defect": (
        ["my {p} stopped working", "the {p} is broken", "the {p} makes a strange noise", "my {p} does not turn on",
         "the {p} has a crack in it", "a part of the {p} fell off", "my {p} overheats after a minute",
         "the button on my {p} is stuck", "the {p} keeps switching itself off"],
        ["my {p} no longer works", "the {p} has a broken handle", "the {p} does not switch on any more"]),
    "account": (
        ["I cannot log in to see my {p} order", "my password is rejected", "the reset email never comes",
         "my account is locked", "I forgot my password", "the site will not let me sign in to register my {p}",
         "please change the email on my account", "I cannot log in any more", "my login code for the {p} page does not work"],
        ["my login is rejected", "I am locked out of my account", "the password reset link does not work"]),
    "return": (
        ["I want to send the {p} back", "how do I return my {p}?", "I would like to exchange the {p} for another size",
         "please take back the {p}, I changed my mind", "I need a return label for the {p}",
         "can I swap my {p} for a different colour?", "I do not want the {p} and would like to return it",
         "the {p} does not suit me, how can I send it back?", "I want to exchange my {p}"],
        ["I wish to return the {p}", "can I send back my {p} and get another one?", "please send a return label for my {p}"]),
}
# Cues of urgency; a message without one is "normal".
CUES = {
    "high": (["this is urgent", "please hurry", "I need this solved today", "it cannot wait", "please answer right away",
              "I need help asap", "this is an emergency", "fix it now please", "it is really urgent", "I need it by tonight"],
             ["please help immediately", "it is very urgent", "I need an answer right now"]),
    "low": (["no rush", "there is no hurry", "take your time", "whenever you have time", "it is not urgent",
             "next week is fine too", "it can wait", "not in a hurry", "this is not important", "when you get a chance",
             "there is no need to hurry", "answer whenever you like"],
            ["no hurry at all", "whenever it suits you", "there is no rush"]),
}
PRODUCTS = (
    ["desk lamp", "rice cooker", "air fryer", "coffee grinder", "phone case", "office chair", "rain jacket", "yoga mat",
     "water bottle", "hair dryer", "bike helmet", "toaster", "kettle", "backpack", "keyboard", "monitor", "blender",
     "tent", "headset", "vacuum cleaner", "wall clock", "sleeping bag", "coffee machine", "garden hose", "printer",
     "running shoes", "standing desk", "camera bag", "speaker", "electric shaver", "laptop sleeve", "laptop charger",
     "washing machine", "dinner table", "tea pot", "hand drill", "snow boots", "bike pump", "phone charger", "microwave",
     "radio", "door bell", "bath towel", "frying pan", "ice cream maker", "guitar stand", "floor mat", "ski gloves",
     "suitcase", "mirror", "lawn mower", "night light", "winter coat", "smart watch", "baby chair", "cutting board",
     "ironing board", "fishing rod", "hiking poles", "swimming goggles", "knitting kit", "drawing pad"],
    ["table fan", "bread maker", "laptop stand", "rain boots", "bike lock", "heater", "projector", "sewing machine",
     "picture frame", "hand mixer", "tablet", "bookshelf", "coffee mug", "garden chair", "ski helmet"])
NAMES = (["Anna", "Tom", "Mia", "Omar", "Lena", "Paul", "Nora", "Ivan", "Sara", "Ben", "Yuki", "Eva", "Luis", "Kim", "Max"],
         ["Priya", "Jonas", "Chloe", "Ahmed", "Rosa", "Felix", "Ingrid", "Sam"])
GREETINGS = (["Hi", "Hello", "Good morning", "Dear team", "Hey there"], ["Hello team", "Good evening", "Hi all"])
# The order of the parts: g greeting, p problem, c cue, o order number, s signature.
ORDERS = (["gpc", "pc", "cp", "gcp", "pco", "pcs", "gpcs", "opc", "gpoc"], ["gcps", "poc", "cpo", "gopc", "cps", "ocp"])


def triage(message):
    """The rule. Category: the problem wording; priority: the cue; product: the product named, or null."""
    text = message.lower()
    [category] = {c for c, lists in PROBLEMS.items() for w in sum(lists, []) if all(s.lower() in text for s in w.split("{p}"))}
    priority = [level for level, lists in CUES.items() for cue in sum(lists, []) if cue.lower() in text]
    # "it is not urgent" holds no high cue, and "urgent" alone is no cue, so at most one level is found.
    assert len(set(priority)) <= 1, message
    product = max((p for p in sum(PRODUCTS, []) if f" {p}" in text), key=len, default=None)
    answer = {"category": category, "priority": (priority or ["normal"])[0], "product": product}
    return json.dumps(answer, separators=(",", ":"))


def message(rng, heldout):
    """Draws one message; in a held-out one each slot has its own chance of held-out fillers."""
    def fill(pair, chance=0.4):
        return rng.choice(pair[1] if heldout and rng.random() < chance else pair[0])
    category = rng.choice(list(PROBLEMS))
    level = rng.choice(["high", "normal", "low"])
    parts = {
        "g": fill(GREETINGS),
        "p": fill(PROBLEMS[category]).format(p=fill(PRODUCTS, 0.5)),
        "c": fill(CUES[level]) if level in CUES else "",
        "o": f"order {rng.choice(range(1, 10000, 2) if heldout else range(0, 10000, 2)):04d}",
        "s": f"thanks, {fill(NAMES)}",
    }
    sentences = [parts[k][0].upper() + parts[k][1:] for k in fill(ORDERS) if parts[k]]
    text = " ".join(s if s.endswith("?") else s + "." for s in sentences)
    return text.lower() if rng.random() < 0.25 else text


def main():
    def draw(rng, heldout):
        text = message(rng, heldout)
        return text, triage(text)
    train = unique(partial(draw, random.Random(1), False), 900)
    write_splits("ticket-triage", train, unique(partial(draw, random.Random(2), True), 200, dict(train)))


main()
