#!/usr/bin/env python3
"""Writes rows.parquet with pyarrow and the same rows as rows.jsonl beside it. Needs: pip install pyarrow."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

here = pathlib.Path(__file__).parent
rows = [
    {
        "id": i,
        "instruction": f"Name the day after day {i}. «ä, 日, 🙂»" if i % 7 else "",
        "input": None if i % 3 else f"day {i % 7}",
        "output": f"It is day {(i + 1) % 7}.",
        "score": i / 4,
        "good": i % 2 == 0,
        "tags": [] if i % 5 == 0 else None if i % 5 == 1 else [f"t{k}" for k in range(i % 5)],
        "messages": [
            {"role": "user", "content": f"And the one before {i}?", "weight": None},
            {"role": "assistant", "content": f"Day {(i - 1) % 7}.", "weight": i % 2},
        ],
    }
    for i in range(120)
]
turn = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("weight", pa.int32())])
schema = pa.schema([
    ("id", pa.int64()), ("instruction", pa.string()), ("input", pa.string()),
    ("output", pa.dictionary(pa.int32(), pa.string())), ("score", pa.float64()), ("good", pa.bool_()),
    ("tags", pa.list_(pa.string())), ("messages", pa.list_(turn)),
])
table = pa.Table.from_pylist(rows, schema=schema)
pq.write_table(table, here / "rows.parquet", row_group_size=50, compression="zstd", data_page_size=512)
for row in rows:  # a key of a structure that a row lacks is a null in Parquet: it is not there in JSON Lines
    row["messages"] = [{key: value for key, value in turn.items() if value is not None} for turn in row["messages"]]
(here / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
