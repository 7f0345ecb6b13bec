"""Pairs of texts with the ROUGE-L that Python's rouge-score gives them, plain and stemmed, and stems of NLTK's Porter.

pip install rouge-score==0.1.2 nltk
python tests/data/scripts/gen_rouge.py    # writes tests/data/rouge/{pairs.jsonl,stems.txt}
"""

import json
import random
from pathlib import Path

from nltk.stem import porter
from rouge_score import rouge_scorer

OUT = Path(__file__).resolve().parents[1] / "rouge"

SENTENCES = """The ferry to the northern islands leaves twice a day, except on Sundays.
Please rewrite the paragraph so that a ten-year-old can understand it.
She was dying to hear the news, but the skies were grey and the ponies were tied up.
National organizations hesitated: relational databases are conditionally consistent.
We proceeded carefully, hopping over puddles, falling twice, hissing and fizzing all the way.
Sort 17, 3, 42, 8 and 3 in ascending order.
Is it true that 2 + 2 = 4? Yes.
Translate "good morning" into German: Guten Morgen!
Der Übersetzer übertrug die Straße nach Köln – schöne Grüße.
La niña comió una manzana; él bebió café.
Ο ποταμός είναι βαθύς και κρύος.
Привет, мир! Как дела?
今日は天気がいいですね。
He filed the complaint, then failed; the filing was troubling, troubled, conflated and sized.
Operators of sensitive electrical instruments need triplicate forms, formal goodness and hopefulness.
Geologists and archaeologists disagreed about theology, radically and differently, and analogously.
Airliners are adjustable replacements; adoption of communism, homologous angularities, effective bowdlerizing.
The controller controls the rolling tolls; probate rates cease to matter.
A cat sat on the mat. The cat sat on the mat. A mat sat on the cat.
Kelvin's K (K) and the long ſ are letters too; İstanbul is a city.
don't can't won't it's we'll they've
e-mail: someone@example.org, tel. +49 30 1234567, price: 12.50 EUR (VAT incl.)
happy happier happiness enjoy enjoyed enjoying enjoyment spy spied spies fly flies flying try tries
inning innings outing outings canning cannings howe proceed exceed succeed agreed feed bled sing
x y z xyzzy yyyy syzygy toy boy employing eyes ye yes ion ions option""".splitlines()

SUFFIXES = """s es ies sses ss ed eed ied ing at bl iz y ational tional enci anci izer bli abli alli entli eli ousli
ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al
ance ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll le ally fully bly ology""".split()


def words(rng):
    """Made-up and real words: letters at random, bases with Porter's suffixes, what the sentences have."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(rng.choice(SENTENCES).split())
    base = "".join(rng.choice("aeiouybcdlmnprstxwz") for _ in range(rng.randint(1, 6)))
    if kind < 0.8:
        return base + rng.choice(SUFFIXES)
    return base + str(rng.randint(0, 30)) if kind < 0.85 else base.upper()


def text(rng):
    kind = rng.random()
    if kind < 0.03:
        return rng.choice(["", " ", "?!", "…", "\n\t"])
    if kind < 0.25:
        return rng.choice(SENTENCES)
    glue = rng.choice([" ", " ", " ", ", ", "\n", "-", "  "])
    return glue.join(words(rng) for _ in range(rng.choice([1, 2, 3, 5, 8, 12, 12, 20, 20, 70])))


def changed(rng, other):
    """A text that shares words with another, in an order that is mostly kept."""
    parts = [p for p in other.split() if rng.random() < 0.8]
    endings = ["s", "ed", "ing", "ly", "ness", "ful"]
    parts = [p + rng.choice(endings) if p.isascii() and p.isalpha() and rng.random() < 0.2 else p for p in parts]
    for _ in range(rng.randint(0, 1 + len(parts) // 4)):
        parts.insert(rng.randint(0, len(parts)), words(rng))
    if len(parts) > 1 and rng.random() < 0.5:
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        parts[i], parts[j] = parts[j], parts[i]
    return " ".join(parts)


def main():
    rng = random.Random(7)
    plain = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    stemmed = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    OUT.mkdir(exist_ok=True)
    with open(OUT / "pairs.jsonl", "w", encoding="utf-8") as out:
        for _ in range(1000):
            target = text(rng)
            answer = changed(rng, target) if rng.random() < 0.7 else text(rng)
            values = [list(s.score(target, answer)["rougeL"]) for s in (plain, stemmed)]
            out.write(json.dumps([target, answer, *values], ensure_ascii=False) + "\n")
    stemmer = porter.PorterStemmer()
    some = {w.lower() for s in SENTENCES for w in s.split() if w.isascii() and w.isalnum()}
    while len(some) < 4000:
        some.add(words(rng).lower())
    some = sorted(w for w in some if w.isascii() and w.isalnum() and len(w) > 3)
    (OUT / "stems.txt").write_text("".join(f"{w} {stemmer.stem(w)}\n" for w in some))


main()
