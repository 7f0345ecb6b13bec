"""Completions, models and responses through the `openai` client."""
from openai_chat import LONG
from openai_constrained import Ticket

TEXTS = ["The harbour is closed", "Snow fell"]


def complete(api, **options):
    options.setdefault("model", "tiny")
    return api.completions.create(**options)


def check_completion(api, served):
    answer = complete(api, prompt=TEXTS[0], max_tokens=12, extra_body=LONG)
    choice = answer.choices[0]
    assert answer.object == "text_completion" and choice.finish_reason == "length" and choice.logprobs is None
    assert answer.usage.completion_tokens == 12
    echoed = complete(api, prompt=TEXTS[0], max_tokens=12, echo=True, extra_body=LONG).choices[0].text
    assert echoed == TEXTS[0] + choice.text
    chunks = list(complete(api, prompt=TEXTS[0], max_tokens=12, echo=True, stream=True, extra_body=LONG))
    assert "".join(c.choices[0].text for c in chunks) == echoed and chunks[-1].choices[0].finish_reason == "length"


def check_prompt_scores(api, served):
    """What lm-eval reads: `echo`, `logprobs`, `max_tokens: 0`."""
    ids = [served.json("/tokenize", {"content": text})["tokens"] for text in TEXTS]
    by_text = complete(api, prompt=TEXTS, max_tokens=0, echo=True, logprobs=3)
    by_ids = complete(api, prompt=ids, max_tokens=0, echo=True, logprobs=3)
    assert by_text.usage.completion_tokens == 0 and by_text.usage.prompt_tokens == sum(map(len, ids))
    for text, tokens, a, b in zip(TEXTS, ids, by_text.choices, by_ids.choices, strict=True):
        scores = a.logprobs
        assert a.text == b.text == text and "".join(scores.tokens) == text
        assert len(scores.token_logprobs) == len(tokens) and scores.token_logprobs[0] is None
        assert all(score < 0 for score in scores.token_logprobs[1:])
        assert scores.text_offset == list(range(len(text)))
        assert all(1 <= len(top) <= 4 for top in scores.top_logprobs[1:])
        assert scores == b.logprobs
    # What an answer's tokens score when they come is what they score when they are given.
    answer = complete(api, prompt=ids[0], max_tokens=8, logprobs=0, echo=True, temperature=1.0, seed=4, extra_body=LONG).choices[0]
    assert len(answer.logprobs.tokens) == len(ids[0]) + 8


def check_the_end_is_scored(api, served):
    """The token that ends an answer is no part of its text, but scored: lm-eval takes the last score for an answer's token."""
    ids = served.json("/tokenize", {"content": TEXTS[0]})["tokens"]
    end = served.json("/tokenize", {"content": "<|im_end|>"})["tokens"]
    options = {"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1, "logit_bias": {str(end[0]): 100}}
    choice = complete(api, **options).choices[0]
    assert (choice.text, choice.finish_reason) == (TEXTS[0], "stop")
    assert len(choice.logprobs.token_logprobs) == len(ids) + 1 and choice.logprobs.tokens[-1] == "<|im_end|>"
    (chunk,) = complete(api, stream=True, **options)
    assert chunk.choices[0].logprobs == choice.logprobs


def check_n_of_many_prompts(api, served):
    answer = complete(api, prompt=TEXTS, n=2, temperature=1.0, seed=9, max_tokens=16, extra_body=LONG)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4


def check_models(api, served):
    cards = {card.id: card for card in api.models.list()}
    assert list(cards) == ["tiny", "blue", "red"]
    assert cards["red"].model_extra["parent"] == "tiny" and cards["tiny"].model_extra["parent"] is None
    assert cards["red"].model_extra["adapter_generation"] and cards["tiny"].model_extra["max_model_len"] > 0
    assert api.models.retrieve("red") == cards["red"]


def check_response(api, served):
    options = {"model": "tiny", "instructions": "Be brief.", "input": "What is a lighthouse?", "extra_body": LONG}
    response = api.responses.create(max_output_tokens=24, **options)
    assert (response.object, response.status, response.model) == ("response", "incomplete", "tiny")
    assert response.incomplete_details.reason == "max_output_tokens" and response.output_text
    assert response.usage.output_tokens == 24
    talk = [{"role": "user", "content": [{"type": "input_text", "text": "What is a lighthouse?"}]}]
    same = api.responses.create(max_output_tokens=24, **{**options, "input": talk})
    assert same.output_text == response.output_text
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a lighthouse?"}]
    chat = api.chat.completions.create(model="tiny", messages=asked, max_tokens=24, extra_body=LONG)
    assert chat.choices[0].message.content == response.output_text
    # An earlier answer is sent back as it came.
    more = talk + [item.model_dump(exclude_none=True) for item in response.output] + [{"role": "user", "content": "And then?"}]
    assert api.responses.create(max_output_tokens=8, **{**options, "input": more}).output_text


def check_response_stream(api, served):
    options = {"model": "tiny", "input": "What is a lighthouse?", "max_output_tokens": 24, "extra_body": LONG}
    whole = api.responses.create(**options).output_text
    events = list(api.responses.create(stream=True, **options))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[-1] == "response.incomplete" and events[-1].response.output_text == whole
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole
    with api.responses.stream(**{key: value for key, value in options.items()}) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole


def check_response_parse(api, served):
    response = api.responses.parse(model="tiny", input="A ticket.", text_format=Ticket, temperature=1.0, max_output_tokens=200)
    assert response.status == "completed" and isinstance(response.output_parsed, Ticket)
