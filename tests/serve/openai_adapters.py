"""Adapters by requests' names, and loaded, replaced, rolled back and unloaded while the server runs."""
import openai

from openai_chat import chat
from openai_errors import raised


def told(api, model="tiny", **body):
    """The text of an answer, and its generation."""
    answer = chat(api, model, extra_body={"ignore_eos": True, **body})
    assert answer.model == model
    return answer.choices[0].message.content, answer.model_extra["adapter_generation"]


def check_adapters_answer(api, served):
    base, red, blue = told(api), told(api, "red"), told(api, "blue")
    assert len({base[0], red[0], blue[0]}) == 3 and base[1] is None and red[1] != blue[1]
    for name in ("tiny:red", "tiny::red", "base:red"):
        assert told(api, name) == red
    assert told(api, adapter="red") == red
    assert told(api, adapter={"generation": blue[1]}) == blue
    assert told(api, lora=[{"id": "red", "scale": 1.0}]) == red
    # An index is that of the list.
    at = {card["path"]: card["id"] for card in served.json("/lora-adapters")}
    assert told(api, lora=[{"id": at["blue"], "scale": 1.0}]) == blue
    assert told(api, lora=[{"id": "red", "scale": 0}])[0] == base[0]
    both = told(api, lora=[{"id": "red", "scale": 0.5}, {"id": "blue", "scale": 0.5}])
    assert both[0] not in (base[0], red[0], blue[0]) and red[1] in both[1] and blue[1] in both[1]


def check_scales_of_the_base(api, served):
    red, base = told(api, "red"), told(api)
    assert served.json("/lora-adapters", [{"id": "red", "scale": 1.0}])
    assert told(api) == red
    assert served.json("/lora-adapters", [])
    assert told(api) == base


def check_load_replace_roll_back_unload(api, served):
    red, blue = told(api, "red"), told(api, "blue")
    load = lambda **body: served.ask("/v1/load_lora_adapter", body)
    assert load(lora_name="bot", lora_path="red") == (200, "Success: LoRA adapter 'bot' added successfully.")
    assert told(api, "bot") == red
    status, text = load(lora_name="bot", lora_path="blue")
    assert status == 400 and "has already been loaded" in text and told(api, "bot") == red
    other = {"lora_name": "bot", "lora_path": "blue", "load_inplace": True, "expected_generation": blue[1]}
    status, text = load(**other)
    assert status == 409 and "lora_generation_mismatch" in text and told(api, "bot") == red
    assert load(**{**other, "expected_generation": red[1]})[0] == 200 and told(api, "bot") == blue
    (entry,) = (e for e in served.json("/v1/lora_adapters")["data"] if e["id"] == "bot")
    assert entry["generation"] == blue[1] and [h["generation"] for h in entry["history"]] == [red[1], blue[1]]
    back = {"lora_name": "bot", "generation": red[1]}
    assert served.ask("/v1/rollback_lora_adapter", back)[0] == 200 and told(api, "bot") == red
    assert served.ask("/v1/unload_lora_adapter", {"lora_name": "bot"})[0] == 200
    raised(openai.NotFoundError, lambda: chat(api, "bot"))
    assert served.ask("/v1/unload_lora_adapter", {"lora_name": "bot"})[0] == 404


def check_a_stream_keeps_its_generation(api, served):
    body = {"lora_name": "swap", "lora_path": "red"}
    assert served.ask("/v1/load_lora_adapter", body)[0] == 200
    whole = chat(api, "red", max_tokens=600)
    stream, text = chat(api, "swap", max_tokens=600, stream=True), ""
    for at, chunk in enumerate(stream):
        if at == 3:
            assert served.ask("/v1/load_lora_adapter", {**body, "lora_path": "blue", "load_inplace": True})[0] == 200
        assert chunk.model_extra["adapter_generation"] == whole.model_extra["adapter_generation"]
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    assert told(api, "swap") == told(api, "blue")
    assert served.ask("/v1/unload_lora_adapter", {"lora_name": "swap"})[0] == 200


def check_no_paths(api, served):
    for path in ("../model", "/etc", "red/../blue", ".", "", "red\x00", "a" * 129, ".lorakit", "nothing"):
        status, text = served.ask("/v1/load_lora_adapter", {"lora_name": "out", "lora_path": path})
        assert status in (400, 404), f"{path!r}: {status} {text}"
    for name in ("tiny", "base", "a/b", "..", ""):
        status, text = served.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": "red"})
        assert status == 400, f"{name!r}: {status} {text}"
    raised(openai.NotFoundError, lambda: chat(api, "out"))
