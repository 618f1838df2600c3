"""Proves that libtenon does not know LLVM: no symbol of it defined or wanted, no public header but llvm.h includes it.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import pathlib
import re
import subprocess
import sys

LLVM_SYMBOL = re.compile(r"\bllvm::|^LLVM[A-Z]|^_ZN?K?[A-Z]*4llvm")
LLVM_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"](llvm|llvm-c|clang)/', re.M)
TENON_SYMBOL = re.compile(r"\btenon::")


def symbols(nm: str, library: str) -> set[str]:
    dynamic = ["-D"] if ".so" in pathlib.Path(library).name else []
    names = set()
    for demangle in ([], ["-C"]):
        listing = subprocess.run([nm, *dynamic, *demangle, library], check=True, capture_output=True, text=True).stdout
        # "0000000000000010 T name", "                 U name"; member headings ("x.o:") have no such shape.
        names.update(m.group(1) for m in re.finditer(r"^[0-9a-f ]{16} [A-Za-z] (.*)$", listing, re.M))
    return names


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--include", required=True, type=pathlib.Path)
    parser.add_argument("--nm", default="nm")
    arguments = parser.parse_args()

    names = symbols(arguments.nm, arguments.library)
    faults = [f"{arguments.library}: symbol of LLVM's: {name}" for name in sorted(names) if LLVM_SYMBOL.search(name)]
    if not any(TENON_SYMBOL.search(name) for name in names):
        faults.append(f"{arguments.library}: no symbol of Tenon's found: nm's output was not understood")

    headers = sorted(arguments.include.rglob("*.h"))
    if not headers:
        faults.append(f"{arguments.include}: no headers found")
    for header in headers:
        if header.name != "llvm.h" and LLVM_INCLUDE.search(header.read_text()):
            faults.append(f"{header}: includes LLVM")
        if header.name != "llvm.h" and re.search(r"#\s*include\s*<tenon/llvm\.h>", header.read_text()):
            faults.append(f"{header}: includes <tenon/llvm.h>")
    print("\n".join(faults) or f"{len(names)} symbols, {len(headers)} headers: no LLVM")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
