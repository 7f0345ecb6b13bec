"""Answers of a given form through the `openai` client: JSON, and calls of tools."""
import json
from typing import Literal

from pydantic import BaseModel, Field

from openai_chat import ASK, chat


class Ticket(BaseModel):
    """Bounded on all sides: a random model ends nothing of its own."""

    team: Literal["billing", "network", "hardware"]
    urgent: bool
    level: int = Field(ge=1, le=5)


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


TOOLS = [
    tool("get_weather", city={"type": "string", "enum": ["Oslo", "Lima"]}, unit={"type": "string", "enum": ["C", "F"]}),
    tool("close_ticket", number={"type": "integer", "minimum": 1, "maximum": 999}),
]


def check_json_schema(api, served):
    form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": Ticket.model_json_schema(), "strict": True}}
    for seed in range(8):
        choice = chat(api, response_format=form, temperature=1.0, seed=seed, max_tokens=200, extra_body={}).choices[0]
        assert choice.finish_reason == "stop"
        Ticket.model_validate_json(choice.message.content)


def check_pydantic_parse(api, served):
    parse = api.chat.completions.parse
    message = parse(model="tiny", messages=ASK, response_format=Ticket, temperature=1.0, seed=1, max_tokens=200).choices[0].message
    assert isinstance(message.parsed, Ticket)


def check_json_object(api, served):
    # A random model ends no object of its own accord: its end is made likely.
    ends = {str(served.json("/tokenize", {"content": text})["tokens"][0]): 100 for text in ("}",)}
    form = {"type": "json_object"}
    choice = chat(api, response_format=form, logit_bias=ends, temperature=1.0, seed=1, extra_body={}).choices[0]
    assert choice.finish_reason == "stop" and json.loads(choice.message.content) == {}
    cut = chat(api, response_format=form, temperature=1.0, seed=1, max_tokens=8, extra_body={}).choices[0]
    assert cut.message.content.lstrip().startswith("{")


def check_guided(api, served):
    said = lambda **body: chat(api, temperature=1.0, seed=2, max_tokens=60, extra_body=body).choices[0].message.content
    assert said(guided_choice=["north", "south"]) in ("north", "south")
    assert said(guided_regex="[a-f]{3}-[0-9]{2}")[3] == "-"
    assert said(guided_json={"enum": [7]}) == "7"


def call_of(message):
    """The only call of a message: its function's name, and its arguments."""
    (call,) = message.tool_calls
    assert call.type == "function" and call.id
    return call.function.name, json.loads(call.function.arguments)


def check_tool_choice_required(api, served):
    options = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 400, "extra_body": {}}
    for first, wanted in (("g", "get_weather"), ("c", "close_ticket")):
        # Which tool a random model calls is a matter of one letter.
        bias = {str(served.json("/tokenize", {"content": first})["tokens"][0]): 100}
        for seed in range(4):
            choice = chat(api, logit_bias=bias, temperature=1.0, seed=seed, **options).choices[0]
            assert choice.finish_reason == "tool_calls" and not choice.message.content
            name, arguments = call_of(choice.message)
            assert name == wanted
            if name == "get_weather":
                assert arguments["city"] in ("Oslo", "Lima") and arguments["unit"] in ("C", "F")
            else:
                assert 1 <= arguments["number"] <= 999


def check_tool_choice_named(api, served):
    this = {"type": "function", "function": {"name": "close_ticket"}}
    options = {"tools": TOOLS, "tool_choice": this, "parallel_tool_calls": False, "max_tokens": 400, "extra_body": {}}
    choice = chat(api, **options).choices[0]
    assert choice.finish_reason in ("stop", "tool_calls")
    name, arguments = call_of(choice.message)
    assert name == "close_ticket"
    parts, text, end = {}, "", None
    for chunk in chat(api, stream=True, **options):
        text += chunk.choices[0].delta.content or ""
        for delta in chunk.choices[0].delta.tool_calls or []:
            part = parts.setdefault(delta.index, {"name": "", "arguments": ""})
            part["name"] += delta.function.name or ""
            part["arguments"] += delta.function.arguments or ""
        end = chunk.choices[0].finish_reason or end
    assert text == "" and end == choice.finish_reason
    assert [(p["name"], json.loads(p["arguments"])) for p in parts.values()] == [(name, arguments)]


def check_tool_choice_auto(api, served):
    for choice in ("auto", "none"):
        answer = chat(api, tools=TOOLS, tool_choice=choice).choices[0]
        assert answer.message.content and not answer.message.tool_calls and answer.finish_reason == "length"


def check_tool_answer_is_read(api, served):
    """A call and its outcome are part of what the model reads."""
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo", "unit": "C"}'}}
    talk = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    talk.append({"role": "tool", "tool_call_id": "c1", "content": "4 degrees"})
    read = served.json("/apply-template", {"model": "tiny", "messages": talk})["prompt"]
    assert '"name": "get_weather"' in read and "4 degrees" in read
    assert chat(api, messages=talk, tools=TOOLS).choices[0].message.content
