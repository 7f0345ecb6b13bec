#!/usr/bin/env python3
"""Writes a train and a heldout file for each language beside it: python3 recipes/data/multilingual/make.py (no packages; seeded, committed).

Small questions in five languages, each asked and answered in its own: a sum, the day after, the larger number, who bought what. Everything
was written for this repository. The languages have very different numbers of rows, as in the world.
"""
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
ROWS = {"en": 320, "de": 160, "fr": 80, "es": 40, "zh": 20}
HELDOUT = 20
NAMES = {"en": "Alice Ben Carol Dan Ella Frank Grace Henry".split(), "de": "Anna Bernd Clara Dirk Eva Fritz Greta Hans".split(),
         "fr": "Aline Benoît Claire Denis Élise Fabien Guy Hélène".split(), "es": "Ana Blas Clara Diego Elena Félix Gloria Hugo".split(),
         "zh": "小明 小红 小华 小丽 小强 小芳 小军 小梅".split()}
DAYS = {"en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
        "de": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag".split(),
        "fr": "lundi mardi mercredi jeudi vendredi samedi dimanche".split(),
        "es": "lunes martes miércoles jueves viernes sábado domingo".split(),
        "zh": "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()}
GOODS = {"en": ["a lamp", "a book", "a coat", "a chair", "a cake"], "de": ["eine Lampe", "ein Buch", "einen Mantel", "einen Stuhl", "einen Kuchen"],
         "fr": ["une lampe", "un livre", "un manteau", "une chaise", "un gâteau"], "es": ["una lámpara", "un libro", "un abrigo", "una silla", "un pastel"],
         "zh": ["一盏灯", "一本书", "一件大衣", "一把椅子", "一个蛋糕"]}
ASK = {
    "en": ("What is {a} plus {b}?", "{a} plus {b} is {c}.", "Which day comes after {d}?", "After {d} comes {e}.",
           "Which number is larger, {a} or {b}?", "The larger number is {m}.", "{n} buys {g} on {d}. Who buys something, and what?", "{n} buys {g}."),
    "de": ("Wie viel ist {a} plus {b}?", "{a} plus {b} ist {c}.", "Welcher Tag kommt nach {d}?", "Nach {d} kommt {e}.",
           "Welche Zahl ist größer, {a} oder {b}?", "Die größere Zahl ist {m}.", "{n} kauft am {d} {g}. Wer kauft etwas, und was?", "{n} kauft {g}."),
    "fr": ("Combien font {a} plus {b} ?", "{a} plus {b} font {c}.", "Quel jour vient après {d} ?", "Après {d} vient {e}.",
           "Quel nombre est le plus grand, {a} ou {b} ?", "Le plus grand nombre est {m}.", "Le {d}, {n} achète {g}. Qui achète quelque chose, et quoi ?", "{n} achète {g}."),
    "es": ("¿Cuánto es {a} más {b}?", "{a} más {b} es {c}.", "¿Qué día viene después del {d}?", "Después del {d} viene el {e}.",
           "¿Qué número es mayor, {a} o {b}?", "El número mayor es {m}.", "El {d}, {n} compra {g}. ¿Quién compra algo, y qué?", "{n} compra {g}."),
    "zh": ("{a}加{b}等于多少？", "{a}加{b}等于{c}。", "{d}之后是哪一天？", "{d}之后是{e}。",
           "{a}和{b}，哪个数更大？", "更大的数是{m}。", "{n}在{d}买了{g}。谁买了什么？", "{n}买了{g}。"),
}


def draw(r, language):
    ask, kind = ASK[language], r.choice([0, 0, 1, 2, 2, 3, 3])
    a, b, i = r.randint(2, 60), r.randint(2, 39), r.randrange(7)
    b += a == b
    fields = {"a": a, "b": b, "c": a + b, "m": max(a, b), "d": DAYS[language][i], "e": DAYS[language][(i + 1) % 7],
              "n": r.choice(NAMES[language]), "g": r.choice(GOODS[language])}
    return ask[2 * kind].format(**fields), ask[2 * kind + 1].format(**fields)


for language, count in ROWS.items():
    r, found = random.Random("multilingual " + language), {}
    while len(found) < count + HELDOUT:
        question, answer = draw(r, language)
        found[question] = answer
    rows = [json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}, ensure_ascii=False) for q, a in found.items()]
    for split, part in (("heldout", rows[:HELDOUT]), ("train", rows[HELDOUT:])):
        (HERE / f"{language}-{split}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    print(language, len(rows) - HELDOUT)
