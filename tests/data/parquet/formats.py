#!/usr/bin/env python3
"""Writes 50 rows with tools, nested values and odd numbers as formats.{jsonl,json,parquet,jsonl.gz,jsonl.zst}. Needs: pip install pyarrow."""

import json
import pathlib
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

here = pathlib.Path(__file__).parent


def arguments(i):
    """Those of a tool: each has keys of its own, which are nulls in the rows of the others when Parquet unites them."""
    return [
        {"price": Decimal(f"{i}.50"), "pair": {"low": Decimal("0.00"), "tags": ["a", None, f"é{i}"]}},
        {"id": 2**64 - 1 - i, "share": 0.1 + 0.2 + i, "on": i % 2 == 0},
        {"count": Decimal(10**30 + i), "scale": 1e22, "tiny": 1.5e-7, "label": "1.50"},
        {"day": f"day {i}", "ratio": -i / 8, "steps": [1, i, -(2**63)]},
    ][i % 4]


def row(i):
    call = {"type": "function", "function": {"name": f"tool_{i % 4}", "arguments": arguments(i)}}
    tool = {"type": "function", "function": {"name": f"tool_{i % 4}", "parameters": {"minimum": Decimal("1.50"), "max": 2**40}}}
    return {
        "messages": [
            {"role": "user", "content": f"What is {i}.50? «ä, 日, 🙂»"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": f"{i}e3", "name": f"tool_{i % 4}"},
            {"role": "assistant", "content": f"It is {i}."},
        ],
        "tools": [tool],
    }


def text(value):
    """JSON, decimals with their digits."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


rows = [row(i) for i in range(50)]
pair = pa.struct([("low", pa.decimal128(10, 2)), ("tags", pa.list_(pa.string()))])
given = pa.struct([
    ("price", pa.decimal128(10, 2)), ("pair", pair), ("id", pa.uint64()), ("share", pa.float64()), ("on", pa.bool_()),
    ("count", pa.decimal128(38, 0)), ("scale", pa.float64()), ("tiny", pa.float32()), ("label", pa.large_string()),
    ("day", pa.binary()), ("ratio", pa.float64()), ("steps", pa.list_(pa.int64())),
])
limits = pa.struct([("minimum", pa.decimal128(10, 2)), ("max", pa.int64())])
called = pa.struct([("type", pa.string()), ("function", pa.struct([("name", pa.string()), ("arguments", given)]))])
tool = pa.struct([("type", pa.string()), ("function", pa.struct([("name", pa.string()), ("parameters", limits)]))])
turn = pa.struct([
    ("role", pa.dictionary(pa.int32(), pa.string())), ("content", pa.large_binary()), ("tool_calls", pa.list_(called)),
    ("name", pa.string()),
])
bytes_of = lambda v: v.encode() if isinstance(v, str) else v
united = [
    {
        "messages": [
            m | {"content": m["content"].encode()}
            | ({"tool_calls": [c | {"function": c["function"] | {"arguments": {
                k: bytes_of(v) if k == "day" else v for k, v in c["function"]["arguments"].items()}}} for c in m["tool_calls"]]}
               if "tool_calls" in m else {})
            for m in r["messages"]
        ],
        "tools": r["tools"],
    }
    for r in rows
]
schema = pa.schema([("messages", pa.list_(turn)), ("tools", pa.list_(tool))])
pq.write_table(pa.Table.from_pylist(united, schema=schema), here / "formats.parquet", row_group_size=20, compression="zstd")
lines = "".join(text(r) + "\n" for r in rows)
(here / "formats.jsonl").write_text(lines)
(here / "formats.json").write_text("[\n  " + ",\n  ".join(text(r).replace('"tools"', '\n    "tools"') for r in rows) + "\n]\n")
for ending, packing in [("gz", "gzip"), ("zst", "zstd")]:
    with pa.CompressedOutputStream(str(here / f"formats.jsonl.{ending}"), packing) as out:
        out.write(lines.encode())
