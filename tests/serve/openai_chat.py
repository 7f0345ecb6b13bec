"""Chat through the `openai` client: plain, streamed, many at once, given up."""
import asyncio
import math

from openai import AsyncOpenAI

from serving import until

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a lighthouse?"}]
# The random model may end at once otherwise.
LONG = {"ignore_eos": True}


def chat(api, model="tiny", **options):
    options.setdefault("messages", ASK)
    options.setdefault("max_tokens", 40)
    options.setdefault("extra_body", LONG)
    return api.chat.completions.create(model=model, **options)


def check_chat(api, served):
    answer = chat(api)
    choice = answer.choices[0]
    assert (answer.object, answer.model, choice.index, choice.message.role) == ("chat.completion", "tiny", 0, "assistant")
    assert choice.message.content and choice.finish_reason == "length"
    usage = answer.usage
    prompt = served.json("/apply-template", {"model": "tiny", "messages": ASK})["prompt"]
    assert usage.prompt_tokens == served.json("/tokenize", {"content": prompt})["count"]
    assert (usage.completion_tokens, usage.total_tokens) == (40, usage.prompt_tokens + 40)
    assert answer.model_extra["adapter_generation"] is None
    assert chat(api).choices[0].message.content == choice.message.content


def streamed(stream):
    """Text, ends and usages of a stream's first choice, and how many chunks without a choice there were."""
    text, ends, usages, empty = "", [], [], 0
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usages.append(chunk.usage)
        if not chunk.choices:
            empty += 1
            continue
        text += chunk.choices[0].delta.content or ""
        ends.append(chunk.choices[0].finish_reason)
    return text, ends, usages, empty


def check_stream(api, served):
    whole = chat(api).choices[0].message.content
    text, ends, usages, empty = streamed(chat(api, stream=True))
    assert text == whole
    assert ends[-1] == "length" and not any(ends[:-1])
    assert empty == 0 and not any(usages)


def check_stream_with_usage(api, served):
    whole = chat(api)
    text, ends, usages, empty = streamed(chat(api, stream=True, stream_options={"include_usage": True}))
    assert text == whole.choices[0].message.content and ends[-1] == "length"
    assert empty == 1 and not any(usages[:-1])
    assert usages[-1].completion_tokens == 40 and usages[-1].prompt_tokens == whole.usage.prompt_tokens


def check_n(api, served):
    many = chat(api, n=4, temperature=1.0, seed=5)
    texts = [choice.message.content for choice in many.choices]
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3] and len(set(texts)) == 4
    assert many.usage.completion_tokens == 160
    again = {}
    for chunk in chat(api, n=4, temperature=1.0, seed=5, stream=True):
        for choice in chunk.choices:
            again[choice.index] = again.get(choice.index, "") + (choice.delta.content or "")
    assert [again[i] for i in range(4)] == texts


def check_seed(api, served):
    text = lambda seed: chat(api, temperature=1.0, seed=seed).choices[0].message.content
    assert text(1) == text(1) != text(2)


def check_stop(api, served):
    whole = chat(api, temperature=1.0, seed=3, max_tokens=200).choices[0].message.content
    # Two neighbours, each a token of its own, late in the text.
    at = next(i for i in range(60, len(whole) - 1) if whole[i : i + 2].isascii() and whole.index(whole[i : i + 2]) == i)
    stop = whole[at : at + 2]
    options = {"temperature": 1.0, "seed": 3, "max_tokens": 200, "stop": [stop, "never said"]}
    choice = chat(api, **options).choices[0]
    assert (choice.message.content, choice.finish_reason) == (whole[:at], "stop")
    text, ends, _, _ = streamed(chat(api, stream=True, **options))
    assert (text, ends[-1]) == (whole[:at], "stop")
    kept = chat(api, **options, extra_body={**LONG, "include_stop_str_in_output": True}).choices[0]
    assert kept.message.content == whole[: at + 2]


def check_logprobs(api, served):
    choice = chat(api, logprobs=True, top_logprobs=5, temperature=1.0, seed=8).choices[0]
    content = choice.logprobs.content
    assert len(content) == 40
    for entry in content:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 5 and tops == sorted(tops, reverse=True)
        assert entry.logprob <= 0 and sum(map(math.exp, tops)) <= 1 + 1e-5
        assert all(top.logprob == entry.logprob for top in entry.top_logprobs if top.bytes == entry.bytes)
    said = bytes(byte for entry in content for byte in entry.bytes)
    assert said.decode(errors="replace") == choice.message.content
    assert any(byte > 127 for byte in said), "the check needs bytes that are no text"
    in_stream = []
    for chunk in chat(api, logprobs=True, top_logprobs=5, temperature=1.0, seed=8, stream=True):
        if chunk.choices[0].logprobs:
            in_stream += chunk.choices[0].logprobs.content
    assert in_stream == content


def check_32_streams(api, served):
    """As many as there are rows, each as if it were alone."""
    asks = [[{"role": "user", "content": f"Tell me {'more ' * (i % 7)}about {i}."}] for i in range(32)]
    models = ["tiny", "red", "blue"]
    alone = [chat(api, models[i % 3], messages=ask).choices[0].message.content for i, ask in enumerate(asks)]

    async def one(together, i):
        text = ""
        async for chunk in await chat(together, models[i % 3], messages=asks[i], stream=True):
            assert chunk.model == models[i % 3]
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them():
        async with AsyncOpenAI(base_url=api.base_url, api_key="none", max_retries=0) as together:
            return await asyncio.gather(*(one(together, i) for i in range(32)))

    assert asyncio.run(all_of_them()) == alone
    assert len(set(alone)) == 32


def check_cancelled_stream(api, served):
    number = lambda name: sum(
        float(line.rsplit(" ", 1)[1]) for line in served.ask("/metrics")[1].splitlines() if line.startswith(name)
    )
    before = number("lorakit:requests_given_up_total")
    stream = chat(api, max_tokens=3500, stream=True)
    for _, chunk in zip(range(3), stream):
        assert chunk.choices
    assert number("vllm:num_requests_running") == 1
    stream.close()
    until(lambda: number("vllm:num_requests_running") == 0, 2.0)
    assert number("lorakit:requests_given_up_total") == before + 1
