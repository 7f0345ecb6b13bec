"""lm-eval's `local-completions` against `lorakit serve` on the real model: its scores are those of /v1/completions, and PyTorch's;
its accuracies are those of `lorakit eval`.

LORAKIT: the binary. LORAKIT_REAL_MODEL: SmolLM2-135M-Instruct as GGUF. For the comparison with PyTorch, which is left out without
them: LORAKIT_TORCH, a Python with torch, transformers and peft, and LORAKIT_REAL_HF, the same model as a Hugging Face directory.
Closes with "N passed, N failed".
"""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Nothing is looked up on a hub.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1")

from serving import LORAKIT, Checks, serving  # noqa: E402

ADAPTER = "ticket-triage"
# lm-eval against the same server: only how its sums are rounded. PyTorch: the server's products in the model's own number formats.
SAME, TORCH = 1e-3, float(os.environ.get("LORAKIT_TORCH_TOLERANCE", "0.5"))
METRICS = ("acc", "acc_norm", "acc_bytes")
RECIPE = """[base]
model = {model}
[data]
train = "unused.jsonl"
[[eval.choices]]
name = "quiz"
rows = {rows}
prompt = "Question: {{question}}\\nAnswer:"
"""


def lm_eval(served, model, cache):
    """Of each question the choices' summed log-probabilities, and the accuracies."""
    os.environ["HF_HOME"] = os.environ["HF_DATASETS_CACHE"] = cache
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    options = {"model": model, "base_url": f"{served.url}/v1/completions", "tokenizer_backend": "remote", "max_length": 2048}
    done = simple_evaluate(
        model="local-completions",
        model_args={**options, "num_concurrent": 4, "eos_string": "<|im_end|>"},
        tasks=["served_quiz"],
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(done["samples"]["served_quiz"], key=lambda sample: sample["doc_id"])
    scores = [[float(choice[0]) for choice in sample["filtered_resps"]] for sample in samples]
    results = done["results"]["served_quiz"]
    return scores, {name: results[f"{name},none"] for name in METRICS}


def questions():
    """Of each question the ids' text before the choices, the choices' texts, and the right one."""
    for line in (HERE / "quiz.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield f"Question: {row['question']}\nAnswer:", [f" {choice}" for choice in row["choices"]], row["answer"]


def tokenized(served):
    """Of each question, of each choice: all ids, and how many of them are the question's."""
    ids = lambda text: served.json("/tokenize", {"content": text})["tokens"]
    for question, choices, _ in questions():
        before = len(ids(question))
        yield [(ids(question + choice), before) for choice in choices]


def raw(served, model, rows):
    """The same sums of the server's own scores, a request a question."""
    for row in rows:
        body = {"model": model, "prompt": [ids for ids, _ in row], "max_tokens": 0, "echo": True, "logprobs": 0}
        choices = served.json("/v1/completions", body)["choices"]
        yield [sum(choice["logprobs"]["token_logprobs"][before:]) for choice, (_, before) in zip(choices, row, strict=True)]


def torch_scores(rows, adapter):
    """The same sums by PyTorch."""
    command = [os.environ["LORAKIT_TORCH"], HERE / "torch_scores.py", os.environ["LORAKIT_REAL_HF"]]
    done = subprocess.run([*command, *([adapter] if adapter else [])], input=json.dumps(rows), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def own_eval(folder, adapter):
    """The accuracies of `lorakit eval` on the same rows."""
    Path(folder, "unused.jsonl").write_text('{"text": "A recipe names rows to train on."}\n')
    recipe = Path(folder, "quiz.toml")
    model, rows = (json.dumps(str(path)) for path in (os.environ["LORAKIT_REAL_MODEL"], HERE / "quiz.jsonl"))
    recipe.write_text(RECIPE.format(model=model, rows=rows))
    done = subprocess.run([LORAKIT, "eval", recipe, *(["--adapter", adapter] if adapter else []), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    judged = json.loads(done.stdout)["sets"][0]["adapter" if adapter else "base"]
    return {name: judged[name] for name in METRICS}


def accuracy(scores):
    right = [row.index(max(row)) == answer for row, (_, _, answer) in zip(scores, questions(), strict=True)]
    return sum(right) / len(right)


def largest(ours, theirs):
    return max(abs(a - b) for a, b in zip(sum(ours, []), sum(theirs, []), strict=True))


def check(served, model, adapter, folder, rows):
    scores, found = lm_eval(served, model, folder)
    own = list(raw(served, model, rows))
    off = largest(scores, own)
    assert off <= SAME, f"lm-eval and /v1/completions differ by {off}"
    assert found["acc"] == accuracy(own), (found, accuracy(own))
    ours = own_eval(folder, adapter)
    assert all(abs(found[name] - ours[name]) <= 1e-6 for name in METRICS), (found, ours)
    # A broken prompt score brings lm-eval to chance, a quarter.
    assert found["acc"] >= 0.35, found
    numbers = ", ".join(f"{name} {found[name]:.3f}" for name in METRICS)
    said = f"{numbers} as `lorakit eval` has them; from /v1/completions by at most {off:.1e}"
    if "LORAKIT_TORCH" not in os.environ:
        return said
    theirs = torch_scores(rows, adapter)
    off, same = largest(scores, theirs), sum(a.index(max(a)) == b.index(max(b)) for a, b in zip(scores, theirs, strict=True))
    assert off <= TORCH, f"lm-eval and PyTorch differ by {off}"
    return f"{said}; PyTorch: acc {accuracy(theirs):.3f}, {same} of {len(rows)} choices the same, sums differ by at most {off:.1e}"


def main():
    checks = Checks()
    os.chdir(HERE)  # quiz.yaml names its file so
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        shipped = HERE.parent.parent / "adapters" / ADAPTER
        shutil.copytree(shipped, Path(folder, "adapters", ADAPTER))
        options = ["--name", "smollm2", "--adapters", Path(folder, "adapters")]
        served = stack.enter_context(serving("--model", os.environ["LORAKIT_REAL_MODEL"], *options))
        rows = list(tokenized(served))
        for model, adapter in (("smollm2", None), (ADAPTER, str(shipped))):
            checks.run(f"lm_eval {model}", check, served, model, adapter, folder, rows)
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
