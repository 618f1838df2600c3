"""The parts of the style that a program can judge: license lines, file sizes, line lengths, tabs and trailing blanks.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import pathlib
import re
import sys

FOLDERS = ("include", "src", "tools", "bench", "fuzz", "examples", "tests", "cmake", ".ci")
OURS = {".h", ".cpp", ".c", ".S", ".py", ".sh", ".cmake"}
CHECKED = OURS | {".s", ".ll", ".test", ".md", ".in", ".txt"}
SPDX = "SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception"
HEAD_LINES = 40
COLUMNS = 132  # the formatter aims at 125; this is where it stops being tolerable
LINES = 800
LINES_ARCH = 1200
# Spelled apart, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def files(root: pathlib.Path):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root)
            if path.is_file() and relative.parts[:2] != ("fuzz", "corpus") and "__pycache__" not in relative.parts:
                yield path
    yield from (p for p in sorted(root.iterdir()) if p.suffix == ".md" or p.name == "CMakeLists.txt")


def check(root: pathlib.Path, path: pathlib.Path):
    relative = path.relative_to(root)
    is_input = "inputs" in (part.lower() for part in relative.parts)
    is_ours = (path.suffix in OURS or path.name == "CMakeLists.txt" or relative.parts[0] == ".ci") and not is_input
    if path.suffix not in CHECKED and not is_ours:
        return
    try:
        lines = path.read_text().split("\n")
    except UnicodeDecodeError:
        yield f"{relative}: not UTF-8"
        return

    if is_ours and not any(SPDX in line for line in lines[:HEAD_LINES]):
        yield f"{relative}: the head lacks the line '{SPDX}'"
    limit = LINES_ARCH if relative.parts[:3] == ("src", "link", "arch") else LINES
    if is_ours and len(lines) > limit:
        yield f"{relative}: {len(lines)} lines, more than {limit}"
    if lines[-1] != "" and lines != [""]:
        yield f"{relative}: no newline at the end"
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield f"{relative}:{number}: trailing blanks"
        if is_ours and "\t" in line:
            yield f"{relative}:{number}: tab"
        if is_ours and len(line) > COLUMNS:
            yield f"{relative}:{number}: {len(line)} columns, more than {COLUMNS}"
        if UNFINISHED.search(line):
            yield f"{relative}:{number}: unfinished: {line.strip()}"
        if is_ours and re.match(r'\s*#\s*include\s*"\.\.', line):
            yield f"{relative}:{number}: include with .."


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, type=pathlib.Path)
    root = parser.parse_args().source

    paths = list(files(root))
    faults = [fault for path in paths for fault in check(root, path)]
    if not paths:
        faults.append(f"{root}: nothing found")
    print("\n".join(faults) or f"{len(paths)} files: in order")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
