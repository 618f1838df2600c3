"""Writes the first C++ block of a Markdown file as a source file. Usage: readme_example.py README.md OUT.cpp

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import pathlib
import re
import sys

markdown, out = map(pathlib.Path, sys.argv[1:])
text = markdown.read_text()
block = re.search(r"^```cpp\n(.*?)^```$", text, re.M | re.S)
if not block:
    sys.exit(f"{markdown}: no C++ block")
line = text.count("\n", 0, block.start(1)) + 1
out.write_text(f'#line {line} "{markdown}"\n{block.group(1)}')
