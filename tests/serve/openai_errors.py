"""What the `openai` client raises."""
import openai

from openai_chat import ASK, chat


def raised(kind, work):
    """The error that `work` raises, which must be of `kind` itself."""
    try:
        work()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__}: {error}"
        assert error.body["message"] and error.body["type"]
        return error
    raise AssertionError(f"nothing is raised, not {kind.__name__}")


def check_not_found(api, served):
    error = raised(openai.NotFoundError, lambda: chat(api, "tinny"))
    assert (error.code, error.param) == ("model_not_found", "model") and "`tiny`" in error.body["message"]
    raised(openai.NotFoundError, lambda: api.models.retrieve("nobody"))
    raised(openai.NotFoundError, lambda: api.embeddings.create(model="tiny", input="text"))


def check_bad_requests_name_the_field(api, served):
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]}]
    cases = [
        ({"temperature": 3}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
        ({"messages": image}, "messages[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"extra_body": {"stop_token_ids": [2**40]}}, "stop_token_ids"),
        ({"extra_body": {"seed": 2**64}}, "seed"),
        ({"extra_body": {"lora": [{"id": 99}]}}, "lora"),
    ]
    for options, param in cases:
        error = raised(openai.BadRequestError, lambda: chat(api, **options))
        assert error.param == param, f"{options}: {error.param}: {error}"
    error = raised(openai.BadRequestError, lambda: api.completions.create(model="tiny", prompt=[[259]]))
    assert error.param == "prompt"


def check_nothing_is_cut(api, served):
    long = [{"role": "user", "content": "word " * 2000}]
    error = raised(openai.BadRequestError, lambda: chat(api, messages=long))
    assert error.code == "context_length_exceeded" and error.param == "messages"


def keys(with_key, served, key, admin):
    for wrong in ("wrong", key[:-1], key + "x"):
        assert raised(openai.AuthenticationError, lambda: chat(with_key(wrong))).code == "invalid_api_key"
    status, text = served.ask("/v1/chat/completions", {"model": "tiny", "messages": ASK})
    assert status == 401 and "missing_api_key" in text
    for right in (key, admin):
        assert chat(with_key(right)).choices[0].message.content
    unload = {"lora_name": "red"}
    assert served.ask("/v1/unload_lora_adapter", unload)[0] == 401
    assert served.ask("/v1/unload_lora_adapter", unload, key)[0] == 403
    assert served.ask("/v1/unload_lora_adapter", unload, admin)[0] == 200
    assert served.ask("/metrics", key=key)[0] == 403 and served.ask("/health")[0] == 200


def too_many(api):
    stream = chat(api, max_tokens=3500, stream=True)
    next(iter(stream))
    error = raised(openai.RateLimitError, lambda: chat(api))
    assert error.code == "queue_full" and int(error.response.headers["retry-after"]) >= 1
    stream.close()
