#!/usr/bin/env python3
"""A tiny T5 is trained in PyTorch until it solves two tasks; lorakit answers as it does, and teaches it a third one by an adapter.

What is compared with transformers and PEFT: greedy answers of the base, of the adapter that lorakit trained, and of the merged
directory.  Prompts and answers are a word in letters (`reverse: c a b`), one token a letter.

    tests/families/tiny_t5.py --lorakit target/release/lorakit [--out DIR] [--steps 1500]

Exit status 1 if a task is not solved or an answer differs.
"""
import argparse, json, random, subprocess, sys, tempfile
from pathlib import Path
import torch, transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors, decoders
from peft import PeftModel
tf.utils.logging.set_verbosity_error(); tf.utils.logging.disable_progress_bar()
torch.set_num_threads(1)    # such small products wait for each other longer than they take

LETTERS = "abcdefgh"
TASKS = {"reverse": lambda w: w[::-1], "sort": sorted}
TAUGHT = ("twice", lambda w: [x for c in w for x in (c, c)])
LONGEST, ANSWER = 5, 16


def tokenizer(d):
    words = ["<pad>", "</s>", "<unk>", *(f"{t}:" for t in (*TASKS, TAUGHT[0])), *LETTERS]
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.decoder = decoders.Fuse()
    t.add_special_tokens(["<pad>", "</s>", "<unk>"])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    t.save(f"{d}/tokenizer.json")
    special = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    json.dump(dict(special, tokenizer_class="PreTrainedTokenizerFast"), open(f"{d}/tokenizer_config.json", "w"))
    return tf.PreTrainedTokenizerFast(tokenizer_file=f"{d}/tokenizer.json", **special)


def row(task, make, rng):
    word = [rng.choice(LETTERS) for _ in range(rng.randint(2, LONGEST))]
    return f"{task}: {' '.join(word)}", " ".join(make(word))


def base(d, tok, steps):
    rng, best = random.Random(0), 0
    torch.manual_seed(0)
    config = tf.T5Config(vocab_size=len(tok), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
                         dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=True)
    m = tf.T5ForConditionalGeneration(config)
    optimiser = torch.optim.AdamW(m.parameters(), lr=2e-3)
    for step in range(steps):
        for g in optimiser.param_groups: g["lr"] = 2e-3 * (1 - step / steps)
        rows = [row(t, TASKS[t], rng) for t in rng.choices(list(TASKS), k=64)]
        x, y = (tok([r[i] for r in rows], padding=True, return_tensors="pt") for i in (0, 1))
        loss = m(**x, labels=y.input_ids.masked_fill(y.attention_mask == 0, -100)).loss
        loss.backward(); optimiser.step(); optimiser.zero_grad()
    m.eval().save_pretrained(d)
    return m


def answers(m, tok, prompts):
    x = tok(prompts, padding=True, return_tensors="pt")
    out = m.generate(input_ids=x.input_ids, attention_mask=x.attention_mask, max_new_tokens=ANSWER, do_sample=False)
    return [[i for i in ids[1:] if i not in (0, 1)] for ids in out.tolist()]


def ours(lorakit, model, prompts, *more):
    def one(prompt):
        run = subprocess.run([lorakit, "generate", "--model", model, "--prompt", prompt, "--json", "--max-new-tokens", str(ANSWER), *more],
                             capture_output=True, text=True)
        if run.returncode: sys.exit(run.stderr)
        return json.loads(run.stdout.splitlines()[-1])["ids"]
    return [one(p) for p in prompts]


def same(what, got, want):
    wrong = sum(g != w for g, w in zip(got, want))
    print(f"{what}: {len(want) - wrong} of {len(want)} answers are the same")
    if wrong: sys.exit(1)


def solved(what, got, rows, tok, least):
    right = sum(" ".join(tok.convert_ids_to_tokens(g)) == r[1] for g, r in zip(got, rows)) / len(rows)
    print(f"{what}: {right:.0%} right")
    if right < least: sys.exit(1)


def teach(lorakit, d, rng):
    rows = [row(*TAUGHT, rng) for _ in range(800)]
    for name, part in (("train", rows[64:]), ("heldout", rows[:64])):
        Path(f"{d}/{name}.jsonl").write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in part))
    Path(f"{d}/recipe.toml").write_text(f'''
[base]
model = "{d}/base"
[adapter]
rank = 16
alpha = 32
targets = "all-linear"
[data]
train = "train.jsonl"
heldout = "heldout.jsonl"
[train]
epochs = 12
lr = 5e-3
batch_size = 32
max_length = 64
[output]
dir = "{d}/adapter"
''')
    run = subprocess.run([lorakit, "train", f"{d}/recipe.toml"], capture_output=True, text=True)
    if run.returncode: sys.exit(run.stderr + run.stdout)
    return rows[:64]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lorakit", required=True); p.add_argument("--out"); p.add_argument("--steps", type=int, default=1500)
    a = p.parse_args()
    d = a.out or tempfile.mkdtemp()
    Path(f"{d}/base").mkdir(parents=True, exist_ok=True)
    tok, rng = tokenizer(f"{d}/base"), random.Random(1)
    m = base(f"{d}/base", tok, a.steps)
    for task, make in TASKS.items():
        rows = [row(task, make, rng) for _ in range(64)]
        prompts = [r[0] for r in rows]
        want = answers(m, tok, prompts)
        solved(f"{task}, transformers", want, rows, tok, 0.9)
        same(f"{task}, lorakit", ours(a.lorakit, f"{d}/base", prompts[:8]), want[:8])
    rows = teach(a.lorakit, d, rng)
    prompts = [r[0] for r in rows]
    taught = PeftModel.from_pretrained(tf.T5ForConditionalGeneration.from_pretrained(f"{d}/base"), f"{d}/adapter").eval()
    assert taught.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
    want = answers(taught, tok, prompts)
    solved(f"{TAUGHT[0]}, taught by lorakit, in PEFT", want, rows, tok, 0.8)
    adapter = ("--adapter", f"{d}/adapter")
    same("the adapter, lorakit", ours(a.lorakit, f"{d}/base", prompts[:8], *adapter), want[:8])
    run = subprocess.run([a.lorakit, "merge", "--model", f"{d}/base", "--out", f"{d}/merged", "--dtype", "f32", *adapter], capture_output=True, text=True)
    if run.returncode: sys.exit(run.stderr)
    merged = tf.T5ForConditionalGeneration.from_pretrained(f"{d}/merged").eval()
    same("merged, transformers", answers(merged, tok, prompts), want)
    same("merged, lorakit", ours(a.lorakit, f"{d}/merged", prompts[:8]), want[:8])


if __name__ == "__main__":
    main()
