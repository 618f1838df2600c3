"""The page that `make bench` makes, from figures that were recorded: all of them are on it, goals are judged rightly, plots
are there and well-formed, and nothing is fetched from elsewhere.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

parser = argparse.ArgumentParser()
parser.add_argument("--source", required=True, type=pathlib.Path)
options = parser.parse_args()
sample = options.source / "tests/house/report_sample.json"
wrong = []


def expect(condition, text):
    if not condition:
        wrong.append(text)


def goal_line(page, case, what):
    cells = f"<td class='name'>{re.escape(case)}</td><td class='name'>{re.escape(what)}</td>"
    found = re.search(cells + r"<td>([^<]*)</td><td>([^<]*)</td><td class='(\w+)'>([^<]*)</td>", page)
    return found.groups() if found else None


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    report = [sys.executable, str(options.source / "bench/report/report.py")]
    # A program that prints what was recorded, and complains.
    program = folder / "program.sh"
    program.write_text(f'''#!/bin/sh
[ "$*" = "--json --case x" ] || exit 9
cat "{sample}"
echo "orc: <fell over>" >&2
exit 1
''')
    program.chmod(0o755)
    out = folder / "ran.html"
    done = subprocess.run([*report, "--out", out, "--json", folder / "ran.json", program, "--case", "x"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    expect(done.returncode == 1, f"the program's exit status is passed on: {done.returncode} {done.stderr}")
    page = out.read_text(encoding="utf-8")
    expect("orc: &lt;fell over&gt;" in page, "complaints are on the page")
    expect((folder / "ran.json").read_text() == sample.read_text(), "the figures are kept")

    (folder / "empty.json").write_text("")
    empty = subprocess.run([*report, "--out", folder / "empty.html", "--json", folder / "empty.json"],
                           stderr=subprocess.PIPE)
    expect(empty.returncode == 1 and not (folder / "empty.html").exists(), "no figures are an error")

rows = [json.loads(line) for line in sample.read_text().splitlines()]
table = page[page.index("id='figures'"):]
expect(len(re.findall(r"<tr><td", table)) == sum(len(row) - 2 for row in rows), "each figure has a line in the table")
for text in ("0.318", "411.5", "465", "2.31", "8,610", "0.457", "123", "a/new&lt;one&gt;"):
    expect(f">{text}<" in table or text == "411.5" and ">412<" in table, f"{text} is in the table")

expect(goal_line(page, "link/lua", "tenon / floor") == ("≤ 2", "2.64", "missed", "missed"), "link/lua misses its floor")
expect(goal_line(page, "link/llvm", "tenon / floor") == ("≤ 2", "1.90", "met", "met"), "link/llvm meets its floor")
expect(goal_line(page, "link/llvm", "orc / tenon") == ("≥ 40", "54.9", "met", "met"), "link/llvm meets 40 times LLJIT")
expect(goal_line(page, "many/10k", "the last modules against the first") == ("≤ 1.2", "1.31", "missed", "missed"),
       "the last modules cost more")
expect(goal_line(page, "teardown", "ms") == ("≤ 5", "–", "none", "not measured"), "what was not run is not met")

plots = re.findall(r"<svg.*?</svg>", page, re.S)
for plot in plots:
    ElementTree.fromstring(plot)
titles = [re.search(r"<title>(.*?)</title>", plot)[1] for plot in plots]
expect(titles == ["link/lua", "link/llvm", "link/llvm-cold", "Tiny modules, one after the other", "Memory", "memory/llvm",
                  "a/new&lt;one&gt;"],
       f"the plots are {titles}")
expect(plots[0].count("<rect") == 7 and ">floor<" in plots[0], "an archive has a bar for each and the floor's line")
expect(plots[3].count("<polyline") == 2 and plots[3].count("<circle") == 4, "time has a line for each participant")
expect(plots[4].count("<polyline") == 2, "memory has a line for each participant")
expect(not re.search(r"(src|href)=|@import|url\(", page), "nothing is fetched")
expect(re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC; .*, \d+ cores, \d+ GiB, Linux \d", page), "date and machine are named")
for text in wrong:
    print(f"wrong: {text}")
sys.exit(1 if wrong else 0)
