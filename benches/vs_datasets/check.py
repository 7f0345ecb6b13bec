"""Compares the tokens that lorakit kept with those of `transformers`: python check.py TOKENIZER_DIR FILE KEPT ROWS."""
import itertools
import json
import sys
from pathlib import Path

import numpy
from transformers import AutoTokenizer

folder, path, kept, rows = sys.argv[1], sys.argv[2], Path(sys.argv[3]) / "tokens", int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(folder)
column = lambda name, kind: numpy.memmap(kept / f"{name}.bin", dtype=kind, mode="r")
ids, ends, lines, bits = column("ids", "<u4"), column("ids-ends", "<u8"), column("lines", "<u8"), column("trained", "u1")
with open(path, encoding="utf-8") as file:
    texts = list(itertools.islice(file, int(lines[rows - 1])))
wrong = 0
for row in range(rows):
    start, end = int(ends[row - 1]) if row else 0, int(ends[row])
    turns = json.loads(texts[int(lines[row]) - 1])["messages"]
    theirs = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
    ask = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    before = len(tokenizer(ask, add_special_tokens=False)["input_ids"])
    # Trained are the answer and its end of turn, not the line break that the template writes after it.
    mask = [before <= i < len(theirs) - 1 for i in range(len(theirs))]
    ours = [bool(bits[i // 8] >> (i % 8) & 1) for i in range(start, end)]
    wrong += ids[start:end].tolist() != theirs or ours != mask
print(f"tokens and loss masks: {rows - wrong} of {rows} rows are those of transformers")
sys.exit(wrong > 0)
