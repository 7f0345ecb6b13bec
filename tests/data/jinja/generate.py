"""Writes expected.jsonl: what Python's Jinja, set up as transformers sets it up, makes of each line of snippets.txt.

    python tests/data/jinja/generate.py      (jinja2 3.1)

A line is a template, or a JSON string of one when it begins with a quote. `{{ }}` expressions on one line without statements
are rendered one by one.
"""

import datetime
import json
import pathlib
import re

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
CONTEXT = {
    "messages": [{"role": "user", "content": "Hi  there"}, {"role": "assistant", "content": None}],
    "tools": None, "s": "Hello World", "n": 3, "f": 2.5, "t": True, "l": [3, 1, 2], "ll": ["b", "A", "c"],
    "d": {"b": 1, "a": [1, None, True], "c": {"x": "y'z"}}, "no": None, "e": "", "u8": "äß \u4f60\U0001f600",
    "objs": [{"k": "x", "v": 1}, {"k": "y", "v": 2}, {"k": "x", "v": 3}], "add_generation_prompt": False,
}


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime(2025, 7, 10, 12).strftime(form)
    return env


def snippets():
    for line in (HERE / "snippets.txt").read_text(encoding="utf-8").split("\n"):
        if line.startswith('"'):
            yield json.loads(line)
        elif "{%" in line or line.count("{{") < 2:
            yield from [line] if line else []
        else:
            yield from re.findall(r"\{\{.*?\}\}(?= \{\{|\| \{\{|\|?$)", line)


with open(HERE / "expected.jsonl", "w", encoding="utf-8") as out:
    print(json.dumps({"context": CONTEXT}, ensure_ascii=False), file=out)
    for source in dict.fromkeys(snippets()):
        try:
            case = {"source": source, "text": environment().from_string(source).render(**CONTEXT)}
        except Exception as error:
            case = {"source": source, "error": type(error).__name__}
        print(json.dumps(case, ensure_ascii=False), file=out)
