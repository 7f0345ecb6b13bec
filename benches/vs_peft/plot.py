#!/usr/bin/env python3
"""Draws the table of throughput.md as docs/performance.svg: tokens a second and peak memory, PEFT beside lorakit.

    python benches/vs_peft/plot.py
"""
import re
from pathlib import Path

here = Path(__file__).parent
row = re.compile(r"\| (\S.*?) \| ([\d.]+) \((\d+)\).*?\| ([\d.]+) \((\d+)\)")
rows = [m.groups() for m in map(row.match, (here / "throughput.md").read_text().splitlines()) if m]
panels = [
    ("tokens a second (more is better)", [(name, float(p), float(o)) for name, p, _, o, _ in rows]),
    ("peak memory, MB, mapped weights included (less is better)", [(name, float(p), float(o)) for name, _, p, _, o in rows]),
]
WIDTH, LABEL, BAR, GAP, PANEL = 860, 150, 13, 12, 390
out, height = [], 60 + len(rows) * (2 * BAR + GAP)
for at, (title, values) in enumerate(panels):
    x0 = 20 + at * (PANEL + 30)
    scale = (PANEL - LABEL - 90) / max(max(p, o) for _, p, o in values)
    out.append(f'<text x="{x0}" y="22" font-weight="bold">{title}</text>')
    for i, (name, peft, ours) in enumerate(values):
        y = 40 + i * (2 * BAR + GAP)
        out.append(f'<text x="{x0}" y="{y + BAR + 4}">{name}</text>')
        for j, (value, color, label) in enumerate([(peft, "#9aa5b1", "PEFT"), (ours, "#d9622b", "lorakit")]):
            length, top = value * scale, y + j * BAR
            out.append(f'<rect x="{x0 + LABEL}" y="{top}" width="{length:.1f}" height="{BAR - 1}" fill="{color}"/>')
            out.append(f'<text x="{x0 + LABEL + length + 4:.1f}" y="{top + BAR - 3}" fill="#444">{value:.0f} {label}</text>')
svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">\n'
       f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(out) + "\n</svg>\n")
(here.parent.parent / "docs" / "performance.svg").write_text(svg)
