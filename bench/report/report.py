#!/usr/bin/env python3
"""Makes a self-contained HTML page of what tenon-versus measures.

    report.py --out FILE.html --json FILE.json [--log FILE] [PROGRAM [ARGUMENT...]]

Runs `PROGRAM --json ARGUMENT...`, keeps its lines in FILE.json, and what it complains of in FILE.log. Without a program the
page is made from FILE.json as it is. Exit status: the program's, or 1 if there is nothing to report.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from html import escape

import svg
from goals import all_goals

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1120px; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: 2px 10px; border-bottom: 1px solid #ddd; }
td { text-align: right; } th, td.name { text-align: left; } .met { color: #06703a; } .missed { color: #b00020; }
.none { color: #888; } svg { margin: 6px; } svg text { font: 12px system-ui, sans-serif; }
pre { background: #f5f5f5; padding: 1em; }
"""

# Figures beside the row's own: they have other units, and stay out of plots of it.
SIDE = re.compile(r"_(last_by_first|mappings|bytes|memory|more|ratio|by_linked)$")
SIZES = {"k": 1000, "m": 1000000}


def machine():
    model = "unknown"
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": model, "cores": os.cpu_count(), "memory": f"{memory:.0f} GiB", "kernel": platform.release()}


def figures_of(row):
    return {key: value for key, value in row.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}


def main_figures(row):
    return {name: value for name, value in figures_of(row).items() if not SIDE.search(name)}


def size_of(case):
    found = re.fullmatch(r"many/(\d+)([km]?)", case)
    return int(found[1]) * SIZES.get(found[2], 1) if found else None


def goal_rows(rows):
    """(goal, value or None, "met", "missed" or "not measured") of all goals."""
    for goal in all_goals():
        value = goal.value(rows)
        yield goal, value, "not measured" if value is None else "met" if goal.met(value) else "missed"


def goals_table(rows):
    lines = ["<table id='goals'><tr><th>case</th><th>what</th><th>goal</th><th>measured</th><th></th></tr>"]
    for goal, value, state in goal_rows(rows):
        kind = {"met": "met", "missed": "missed"}.get(state, "none")
        shown = "–" if value is None else svg.short(value)
        sign = "≥" if goal.least else "≤"
        lines.append(f"<tr><td class='name'>{escape(goal.case)}</td><td class='name'>{escape(goal.what())}</td>"
                     f"<td>{sign} {goal.limit:g}</td><td>{shown}</td><td class='{kind}'>{state}</td></tr>")
    return "\n".join(lines + ["</table>"])


def archives(rows):
    for case, row in rows.items():
        if case.startswith("link/") and row["unit"] == "ms":
            figures = main_figures(row)
            yield svg.bars(case, row["unit"], figures, figures.get("floor"))


def series_over_size(rows, pick):
    series = {}
    for case, row in rows.items():
        size = size_of(case)
        for name, value in (figures_of(row).items() if size else []):
            key = pick(name)
            if key:
                series.setdefault(key, []).append((size, value))
    return series


def many(rows):
    yield svg.curves("Tiny modules, one after the other", "modules", "µs a module",
                     series_over_size(rows, lambda name: None if SIDE.search(name) else name))
    yield svg.curves("Memory", "modules", "resident bytes a module beyond its content",
                     series_over_size(rows, lambda name: name[:-6] if name.endswith("_bytes") else None))


def memory(rows):
    for case, row in rows.items():
        if case.startswith("memory/") or row["unit"] == "MB":
            yield svg.bars(case, row["unit"], figures_of(row))


def others(rows):
    for case, row in rows.items():
        plotted = case.startswith(("link/", "memory/", "many/")) and not case.endswith("chain") or row["unit"] == "MB"
        if not plotted and len(main_figures(row)) > 1:
            yield svg.bars(case, row["unit"], main_figures(row))


def figures_table(rows):
    lines = ["<table id='figures'><tr><th>case</th><th>figure</th><th>median</th><th>unit</th></tr>"]
    for case, row in rows.items():
        for name, value in figures_of(row).items():
            unit = "" if SIDE.search(name) else row["unit"]
            lines.append(f"<tr><td class='name'>{escape(case)}</td><td class='name'>{escape(name)}</td>"
                         f"<td>{svg.short(value)}</td><td class='name'>{escape(unit)}</td></tr>")
    return "\n".join(lines + ["</table>"])


def section(title, plots):
    plots = [plot for plot in plots if plot]
    return f"<h2>{title}</h2>\n" + "\n".join(plots) if plots else ""


def page(rows, complaints):
    states = [state for _, _, state in goal_rows(rows)]
    about = machine()
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    summary = (f"{now}; {about['processor']}, {about['cores']} cores, {about['memory']}, Linux {about['kernel']}. "
               f"Goals: {states.count('met')} met, {states.count('missed')} missed, "
               f"{states.count('not measured')} not measured.")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Tenon: benchmarks</title>",
        f"<style>{STYLE}</style></head><body><h1>Tenon beside its peers</h1>",
        f"<p>{escape(summary)} Medians; participants take turns in one process; <code>tenon-versus --help</code> says what "
        "each of them does. Axes are logarithmic.</p>",
        section("Linking archives", archives(rows)),
        section("Many modules", many(rows)),
        section("Memory", memory(rows)),
        section("Other cases", others(rows)),
        "<h2>Goals</h2>", goals_table(rows), "<h2>All figures</h2>", figures_table(rows),
    ]
    if complaints:
        parts.append(f"<h2>What went wrong</h2><pre>{escape(complaints)}</pre>")
    return "\n".join(part for part in parts if part) + "\n</body></html>\n"


def run(command, json_path, log_path):
    """Passes each line on as it comes, which is all the progress that a pipe gets."""
    with open(json_path, "w", encoding="utf-8") as lines, open(log_path, "w", encoding="utf-8") as log:
        arguments = [command[0], "--json", *command[1:]]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            for line in process.stdout:
                lines.write(line)
                row = json.loads(line)
                shown = ", ".join(f"{name} {svg.short(value)}" for name, value in figures_of(row).items())
                print(f"{row['case']} ({row['unit']}): {shown}", flush=True)
    return process.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--json", required=True, type=pathlib.Path)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    log = options.log or options.json.with_suffix(".log")
    status = run(options.command, options.json, log) if options.command else 0
    rows = {}
    for line in options.json.read_text(encoding="utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            rows[row["case"]] = row
    if not rows:
        print(f"report.py: {options.json} has no figures", file=sys.stderr)
        return status or 1
    complaints = log.read_text(encoding="utf-8") if log.exists() else ""
    sys.stderr.write(complaints)
    options.out.write_text(page(rows, complaints), encoding="utf-8")
    for goal, value, state in goal_rows(rows):
        if state == "missed":
            print(f"missed: {goal.case}: {goal.what()} is {svg.short(value)}, the goal {goal.limit:g}")
    print(f"{options.out} has the plots and all figures")
    return status


if __name__ == "__main__":
    sys.exit(main())
