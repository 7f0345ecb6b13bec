"""Writes a GGUF file's byte-level BPE tokenizer as `transformers` reads one: python tokenizer.py MODEL.gguf FOLDER.

For models whose pre-tokenizer is `smollm`: digits one by one, then GPT-2's expression.
"""
import json
import sys
from pathlib import Path

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

fields = GGUFReader(sys.argv[1]).fields
read = lambda name: fields[name].contents()
assert (read("tokenizer.ggml.model"), read("tokenizer.ggml.pre")) == ("gpt2", "smollm")
tokens, kinds = read("tokenizer.ggml.tokens"), read("tokenizer.ggml.token_type")
merges = [tuple(merge.split(" ")) for merge in read("tokenizer.ggml.merges")]
tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
tokenizer.decoder = decoders.ByteLevel()
CONTROL = 3
tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds) if kind == CONTROL])
folder = Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
tokenizer.save(str(folder / "tokenizer.json"))
config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "chat_template": read("tokenizer.chat_template"),
    "eos_token": tokens[read("tokenizer.ggml.eos_token_id")],
    "model_max_length": 8192,
    "clean_up_tokenization_spaces": False,
}
(folder / "tokenizer_config.json").write_text(json.dumps(config))
