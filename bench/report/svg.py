"""Plots as SVG text: bars on a logarithmic axis, and lines on two of them. No library: the page must stand alone.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import math
from html import escape

# Told apart by people who see colours differently as well (Okabe and Ito).
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#666666"]
TENON, FLOOR = "#0072b2", "#888888"


def short(value):
    """Three digits, without an exponent where people can do without."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


class Axis:
    """Decades onto a range of pixels."""

    def __init__(self, values, begin, end):
        values = [value for value in values if value > 0]
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
        self.begin, self.end = begin, end

    def at(self, value):
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def decades(self):
        return [10.0**power for power in range(self.low, self.high + 1)]


def decade_text(value):
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def text(x, y, content, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(content)}</text>'


def line(x1, y1, x2, y2, colour, extra=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {extra}/>'


def frame(width, height, title, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img"><title>{escape(title)}</title>' + text(8, 18, title, extra='font-weight="bold"')
            + "".join(parts) + "</svg>")


def bars(title, unit, figures, floor=None):
    """Horizontal bars of {name: value}; `floor` is drawn across all of them."""
    figures = {name: value for name, value in figures.items() if value > 0}
    if not figures:
        return ""
    left, right, row, top = 130, 80, 22, 32
    width, height = 520, top + row * len(figures) + 30
    values = list(figures.values()) + ([floor] if floor else [])
    axis = Axis(values, left, width - right)
    parts = []
    for decade in axis.decades():
        x = axis.at(decade)
        parts.append(line(x, top, x, height - 26, "#ddd"))
        parts.append(text(x, height - 12, decade_text(decade), "middle"))
    parts.append(text(width - 8, height - 12, unit, "end"))
    for i, (name, value) in enumerate(figures.items()):
        y = top + row * i
        colour = TENON if name.startswith("tenon") else FLOOR if name.startswith("floor") else "#d9a97c"
        parts.append(text(left - 6, y + 14, name, "end"))
        parts.append(f'<rect x="{left}" y="{y + 3:.1f}" width="{max(axis.at(value) - left, 1):.1f}" height="{row - 6}" '
                     f'fill="{colour}"/>')
        parts.append(text(axis.at(value) + 4, y + 14, short(value)))
    if floor:
        x = axis.at(floor)
        parts.append(line(x, top - 6, x, height - 26, "#c00", 'stroke-width="1.5" stroke-dasharray="4 3"'))
        parts.append(text(x + 3, top - 2, "floor", extra='fill="#c00"'))
    return frame(width, height, title, parts)


def curves(title, x_unit, y_unit, series):
    """Lines through {name: [(x, y), ...]}, both axes logarithmic."""
    series = {name: [(x, y) for x, y in points if x > 0 and y > 0] for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    width, height, left, bottom, top, right = 640, 376, 70, 46, 50, 150
    across = Axis([x for points in series.values() for x, _ in points], left, width - right)
    up = Axis([y for points in series.values() for _, y in points], height - bottom, top)
    parts = []
    for decade in across.decades():
        x = across.at(decade)
        parts.append(line(x, top, x, height - bottom, "#ddd"))
        parts.append(text(x, height - bottom + 16, decade_text(decade), "middle"))
    for decade in up.decades():
        y = up.at(decade)
        parts.append(line(left, y, width - right, y, "#ddd"))
        parts.append(text(left - 6, y + 4, decade_text(decade), "end"))
    parts.append(text((left + width - right) / 2, height - 10, x_unit, "middle"))
    parts.append(text(8, top - 14, y_unit, extra='font-size="11"'))
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in sorted(points))
        wide = 3 if name == "tenon" else 1.5
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        for x, y in points:
            parts.append(f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3" fill="{colour}">'
                         f"<title>{escape(name)}, {x:,}: {short(y)}</title></circle>")
        y = top + 10 + 18 * i
        parts.append(line(width - right + 12, y - 4, width - right + 32, y - 4, colour, f'stroke-width="{wide}"'))
        parts.append(text(width - right + 36, y, name))
    return frame(width, height, title, parts)
