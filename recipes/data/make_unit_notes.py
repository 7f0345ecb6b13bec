"""Generates recipes/data/unit-notes: sloppy measurement notes -> one normalised line.

`normalise` is the rule: it reads a note and nothing else, and every row is checked against it.
Held-out rows have other values, times and places; three in four use a lead-in, an aside or an order of parts that
no training row has.
"""
import random
import re
from functools import partial

from jsonl import unique, write_splits

# quantity -> (spellings, {unit: spellings}, lowest, highest, decimals)
QUANTITIES = {
    "temperature": (["temp", "temperature", "t°", "temp."], {"degC": ["C", "°C", "deg C", "celsius"]}, -30, 95, 1),
    "pressure": (["press", "pressure", "press.", "p"], {"bar": ["bar", "bars"], "hPa": ["hPa", "hpa", "hectopascal"]}, 1, 990, 1),
    "humidity": (["hum", "humidity", "rel. hum.", "RH"], {"%": ["%", "pct", "percent"]}, 10, 99, 0),
    "mass": (["mass", "weight", "wt", "wt."], {"kg": ["kg", "kgs", "kilo"], "g": ["g", "grams", "gr"]}, 1, 400, 2),
    "flow": (["flow", "flow rate", "flw"], {"L/min": ["l/min", "lpm", "litres per min"]}, 1, 60, 1),
    "voltage": (["volt", "voltage", "U"], {"V": ["V", "volts", "v"], "mV": ["mV", "millivolts", "mv"]}, 1, 400, 1),
    "length": (["len", "length", "len."], {"mm": ["mm", "millimetres"], "cm": ["cm", "centimetres"]}, 1, 300, 1),
}
PLACES = {"lab": ["lab", "labo", "laboratory"], "room": ["room", "rm", "rm."], "tank": ["tank", "tk", "tk."],
          "hall": ["hall", "hl", "hall no"], "bay": ["bay", "by", "bay no"]}
# First list: training; second: held-out rows only.
ABOUT = (["", "", "abt ", "about ", "~", "approx ", "ca. ", "around "], ["roughly ", "more or less ", "circa "])
READS = ([" ", " ", ": ", " = ", " is ", " was ", " reads "], [" showed ", " came out at ", " -> "])
AT = (["at ", "@ ", "at ", "around ", ""], ["taken at ", "just at "])
IN = (["in ", "in ", "", "from "], ["over in ", "inside "])
ASIDES = (["", "", "", "", "ok", "pls log", "by Tom", "second try", "looks fine", "checked"],
          ["sensor is new", "as usual", "by Nora", "all good"])
# The order of the parts: m measurement, t time, p place, a aside.
ORDERS = (["mtpa", "mpta", "tmpa", "pmta", "mtp", "mp", "mpa", "pma", "mt", "tpm"], ["ptma", "amtp", "tpma", "pm"])
NUMBER = r"(?:minus |-)?\d+(?:[.,]\d+)?"
# 9h05, 9:05, 9:05 pm or 9pm
TIME = re.compile(r"(?<!\w)(\d\d?)(?:[h:](\d\d) ?(am|pm)?| ?(am|pm))(?!\w)")


def normalise(note):
    """The rule: quantity=NUMBER UNIT; time=HH:MM; place=KIND WHICH, with parts that the note lacks left out."""
    fields = []
    for quantity, (names, units, *_) in QUANTITIES.items():
        for unit, spellings in units.items():
            hit = re.search(rf"(?<!\w)(?:{either(names)})\W[^,;\d]*?({NUMBER}) ?(?:{either(spellings)})(?!\w)", note)
            if hit:
                value = hit[1].replace(",", ".").replace("minus ", "-")
                fields.append(f"{quantity}={value} {unit}")
    assert len(fields) == 1, (note, fields)
    hit = TIME.search(note)
    if hit:
        hour, half = int(hit[1]), hit[3] or hit[4]
        fields.append(f"time={hour % 12 + 12 * (half == 'pm') if half else hour:02d}:{hit[2] or '00'}")
    for kind, names in PLACES.items():
        hit = re.search(rf"(?<!\w)(?:{either(names)}) (\d+|[a-z])(?!\w)", note)
        if hit:
            fields.append(f"place={kind} {hit[1].upper()}")
    return "; ".join(fields)


def either(words):
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))


def measurement(rng, fill):
    quantity = rng.choice(list(QUANTITIES))
    names, units, low, high, decimals = QUANTITIES[quantity]
    value = f"{rng.uniform(low, high):.{rng.choice([0, decimals, decimals])}f}"
    if rng.random() < 0.6:
        value = value.replace(".", ",")
    if value.startswith("-") and rng.random() < 0.4:
        value = "minus " + value[1:]
    unit = rng.choice(rng.choice(list(units.values())))
    gap = "" if unit in ("C", "°C", "%", "V", "kg", "g", "mm") and rng.random() < 0.4 else " "
    return rng.choice(names) + fill(READS) + fill(ABOUT) + value + gap + unit


def clock(rng, fill):
    hour, minute = rng.randrange(24), rng.randrange(60)
    half = f"{(hour + 11) % 12 + 1}", "pm" if hour >= 12 else "am"
    gap = rng.choice(["", " "])
    return fill(AT) + rng.choice([
        f"{hour}h{minute:02d}", f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}",
        f"{half[0]}:{minute:02d}{gap}{half[1]}", f"{half[0]}{gap}{half[1]}"])


def place(rng, fill):
    return fill(IN) + rng.choice(rng.choice(list(PLACES.values()))) + " " + rng.choice([str(rng.randint(1, 40)), rng.choice("abcdefgh")])


def note(rng, heldout):
    """Draws one note; in a held-out one each slot has a fifth of a chance of held-out fillers."""
    def fill(pair):
        return rng.choice(pair[1] if heldout and rng.random() < 0.2 else pair[0])
    parts = {"m": measurement(rng, fill), "t": clock(rng, fill), "p": place(rng, fill), "a": fill(ASIDES)}
    return rng.choice([" ", " ", ", ", "; "]).join(parts[k] for k in fill(ORDERS) if parts[k])


def main():
    def draw(rng, heldout):
        text = note(rng, heldout)
        return text, normalise(text)
    train = unique(partial(draw, random.Random(1), False), 2000)
    write_splits("unit-notes", train, unique(partial(draw, random.Random(2), True), 200, dict(train)))


main()
