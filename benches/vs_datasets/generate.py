"""Writes a corpus of made-up conversations: python generate.py ROWS FILE. About 1.5 kB a row; the same for every run."""
import json
import random
import sys

rows, path = int(sys.argv[1]), sys.argv[2]
draw = random.Random(1)
syllables = [a + b for a in "b c d f g h k l m n p r s t v w st tr ch sh".split() for b in "a e i o u ai ee ou an er in".split()]
words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3)))) for _ in range(30_000)]
words += "the of and to in is that it for was on are as with his they at be this have from or had by".split() * 400


def paragraph():
    text = []
    for _ in range(draw.randint(2, 9)):
        sentence = " ".join(draw.choices(words, k=draw.randint(6, 16)))
        text.append(sentence[0].upper() + sentence[1:] + draw.choice(".....?!"))
    return " ".join(text)


# Paragraphs are made once and put together anew in every row, with numbers of the row's own.
paragraphs = [paragraph() for _ in range(40_000)]
assert all(json.dumps(p) == f'"{p}"' for p in paragraphs)
with open(path, "w", encoding="utf-8") as out:
    for row in range(rows):
        ask = paragraphs[int(draw.random() * 40_000)]
        answer = "\\n\\n".join(paragraphs[int(draw.random() * 40_000)] for _ in range(1 + int(draw.random() * 5)))
        out.write(
            f'{{"messages": [{{"role": "user", "content": "{row}: {ask}"}}, '
            f'{{"role": "assistant", "content": "{answer} {row * 7919 % 100003}"}}]}}\n'
        )
