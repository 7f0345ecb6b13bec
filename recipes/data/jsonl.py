"""Writes (user, assistant) pairs as the chat rows that lorakit's recipes read.

Knows nothing of any domain; refuses duplicates and rows that stand in both splits.
"""
import json
from pathlib import Path


def write_splits(name, train, heldout):
    """Writes NAME/train.jsonl and NAME/heldout.jsonl beside this file."""
    seen = [user for user, _ in train + heldout]
    assert len(seen) == len(set(seen)), f"{name}: a message occurs twice"
    folder = Path(__file__).resolve().parent / name
    folder.mkdir(exist_ok=True)
    for split, pairs in (("train", train), ("heldout", heldout)):
        lines = [json.dumps(chat(*pair), ensure_ascii=False, separators=(",", ":")) for pair in pairs]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}/{split}.jsonl: {len(lines)} rows")


def chat(user, assistant):
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def unique(draw, count, taken=()):
    """The first `count` distinct pairs that `draw()` gives whose message is not in `taken`."""
    pairs = {}
    while len(pairs) < count:
        user, assistant = draw()
        if user not in taken:
            pairs.setdefault(user, assistant)
    return list(pairs.items())
