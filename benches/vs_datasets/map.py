"""Rows a second of `datasets.map`: python map.py TOKENIZER_DIR FILE PROCESSES. Reading JSON into Arrow is not counted.

Chat template, fast tokenizer, and labels of the answer alone. The prompt is not tokenised a second time to find where the answer
begins, as is often done: it ends in a special token and a line break, so that the halves have the tokens of the whole.
"""
import sys
import time

import datasets
from transformers import AutoTokenizer

folder, path, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
datasets.disable_caching()
tokenizer = AutoTokenizer.from_pretrained(folder)
assert tokenizer.is_fast


def encode(batch):
    whole = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in batch["messages"]]
    ask = [tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True) for turns in batch["messages"]]
    before = tokenizer(ask, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    answers = [text[len(start):] for text, start in zip(whole, ask)]
    after = tokenizer(answers, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids = [b + a for b, a in zip(before, after)]
    return {"input_ids": ids, "labels": [[-100] * len(b) + a for b, a in zip(before, after)]}


if __name__ == "__main__":
    data = datasets.load_dataset("json", data_files=path, split="train")
    started = time.time()
    data = data.map(encode, batched=True, num_proc=processes, remove_columns=data.column_names)
    seconds = time.time() - started
    print(f"datasets.map, {processes} processes: {len(data)} rows in {seconds:.1f} s, {len(data) / seconds:.0f} rows/s")
