#!/usr/bin/env python3
"""Writes what turns the golden llama model into one to try things on: a byte-level tokenizer of its 320 ids beside it,
and a toy domain of weekday questions. Run from tests/data: python3 scripts/make_tiny.py"""
import json
import os

VOCAB = 320
SPECIAL = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]  # ids 0, 1, 2 as the model's config.json has them
MODEL = "golden/models/llama"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ASK = [
    ("Which day comes after {}?", 1),
    ("Which day comes before {}?", -1),
    ("It is {}. What is tomorrow?", 1),
    ("It is {}. What was yesterday?", -1),
    ("Name the day two days after {}.", 2),
    ("Two days ago it was {}. What is today?", 2),
]


def rows():
    """Training rows and held-out ones: of every question one day is held out, another one each time."""
    train, heldout = [], []
    for i, (ask, shift) in enumerate(ASK):
        for d, day in enumerate(DAYS):
            answer = DAYS[(d + shift) % 7] + "."
            row = {"messages": [{"role": "user", "content": ask.format(day)}, {"role": "assistant", "content": answer}]}
            (heldout if d == (2 * i) % 7 else train).append(row)
    return train, heldout


def byte_characters():
    """GPT-2's table: every byte as one printable character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def learn(texts, characters, merges):
    """The most frequent pair of neighbours, again and again (Sennrich et al. 2016); ties go to the smaller pair."""
    words = [[characters[b] for b in text.encode()] for text in texts]
    learned = []
    while len(learned) < merges:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        a, b = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append((a, b))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return learned


def split(text):
    """Words with the space before them, as the byte-level pre-tokenizer cuts; good enough to learn merges from."""
    return [word if i == 0 else " " + word for i, word in enumerate(text.split(" "))]


def tokenizer(texts):
    characters = byte_characters()
    merges = learn([word for text in texts for word in split(text)], characters, VOCAB - 256 - len(SPECIAL))
    tokens = SPECIAL + characters + [a + b for a, b in merges]
    assert len(tokens) == len(set(tokens)) == VOCAB
    added = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, t in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [list(m) for m in merges]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    train, heldout = rows()
    os.makedirs("tiny", exist_ok=True)
    for name, split_ in (("train", train), ("heldout", heldout)):
        write(f"tiny/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in split_))
    texts = [message["content"] for row in train for message in row["messages"]]
    write(f"{MODEL}/tokenizer.json", json.dumps(tokenizer(texts), ensure_ascii=False, indent=1) + "\n")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>",
              "add_bos_token": False, "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False}
    write(f"{MODEL}/tokenizer_config.json", json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
