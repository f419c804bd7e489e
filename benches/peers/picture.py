"""The picture of the README: for each workload one bar per tool on a logarithmic scale, as SVG that asks for nothing."""

import math
from html import escape

PANEL_WIDTH, BAR, GAP, HEAD, NAME = 460, 15, 5, 34, 150
PLOT = PANEL_WIDTH - NAME - 70
# Colours that can be read on white and on black; text follows the reader's scheme where that is known.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; font-size: 13px }
.ours { fill: #1f7ae0 } .other { fill: #8b949e } .none { font-style: italic; opacity: .75 }
.grid { stroke: #8b949e; stroke-opacity: .35 }
@media (prefers-color-scheme: dark) { text { fill: #adb5bd } .ours { fill: #4c9aff } .other { fill: #6e7781 } }
"""


def draw(board):
    panels = [(work, "memory" if work.is_sampled else "whole") for work in board.workloads]
    height = HEAD + len(board.tools) * (BAR + GAP) + 22
    rows = (len(panels) + 1) // 2
    width = 2 * PANEL_WIDTH + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {rows * height}" width="{width}" role="img">']
    parts.append("<title>Phalanx and other tools on the same work; shorter is better, scales are logarithmic</title>")
    parts.append(f"<style>{STYLE}</style>")
    for i, (work, field) in enumerate(panels):
        at = f"translate({i % 2 * (PANEL_WIDTH + 20)},{i // 2 * height})"
        parts.append(f'<g transform="{at}">{_panel(board, work, field)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(board, work, field):
    scale = 1 / (1 << 20) if work.is_sampled else 1
    values = {tool.name: board.figure(tool, work, field) for tool in board.tools}
    shown = [value * scale for value in values.values() if value]
    unit = "MiB" if work.is_sampled else "s"
    title = "memory of the tool, 2,000 tasks" if work.is_sampled else work.title.replace("`", "")
    parts = [f'<text class="title" x="0" y="16">{escape(title)}, {unit}</text>']
    if not shown:
        return parts[0]
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    high = max(high, low + 1)
    place = lambda value: (math.log10(value) - low) / (high - low) * PLOT
    bottom = HEAD + len(board.tools) * (BAR + GAP)
    for power in range(low, high + 1):
        x = NAME + place(10.0**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 6}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 12}" text-anchor="middle">{10.0**power:g}</text>')
    for row, tool in enumerate(board.tools):
        y, value = HEAD + row * (BAR + GAP), values[tool.name]
        parts.append(f'<text x="{NAME - 6}" y="{y + 12}" text-anchor="end">{escape(tool.title.replace("`", ""))}</text>')
        if value is None:
            reason = tool.cannot.get(work.name, board.why_not(tool, work) or "not measured")
            parts.append(f'<text class="none" x="{NAME + 4}" y="{y + 12}">{escape(reason)}</text>')
            continue
        kind, length = "ours" if tool.name.startswith("phalanx") else "other", max(place(value * scale), 1)
        parts.append(f'<rect class="{kind}" x="{NAME}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        parts.append(f'<text x="{NAME + length + 5:.1f}" y="{y + 12}">{value * scale:.3g}</text>')
    return "\n".join(parts)
