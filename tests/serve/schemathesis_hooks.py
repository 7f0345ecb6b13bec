"""Lets many of schemathesis' requests reach the model: a body that names no model of the server is a 404 whatever else it says, and
of thirty random fields there is always one that cannot be."""
import random

import schemathesis

VALID = {
    "model": ["tiny", "red", "blue", "tiny:red"],
    "messages": [[{"role": "user", "content": "Hello"}], [{"role": "system", "content": "é"}, {"role": "user", "content": ""}]],
    "lora_name": ["red", "bot"],
    "lora_path": ["red", "blue"],
    "input": ["Hello"],
    "prompt": ["Hello", [1, 2, 3]],
    "tokens": [[1, 2, 3]],
}
# How many fields beside those are left, where not all are.
LEFT = 3


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    chance = random.Random(repr(sorted(body.items(), key=str)))
    if chance.random() < 0.2:
        return body
    others = [name for name in sorted(map(str, body)) if name not in VALID]
    left = {*VALID, *chance.sample(others, min(LEFT, len(others)))}
    body = {name: value for name, value in body.items() if name in left}
    for name, values in VALID.items():
        if name in body and chance.random() < 0.8:
            body[name] = chance.choice(values)
    return body


@schemathesis.hook
def map_path_parameters(context, parameters):
    chance = random.Random(repr(parameters))
    for name, values in (("file", ["app.js", "style.css"]), ("id", ["red", "nobody"])):
        if parameters and name in parameters and chance.random() < 0.5:
            parameters[name] = chance.choice(values)
    return parameters
