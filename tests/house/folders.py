"""Holds the arrows between the folders: who may include whom. The table is compared with that in src/*/CMakeLists.txt.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import pathlib
import re
import sys

ALLOWED = {
    "base": set(),
    "object": {"base"},
    "memory": {"base"},
    "link": {"object", "memory", "base"},
    "notify": {"memory", "base"},
    "reclaim": {"base"},
    "engine": {"link", "object", "memory", "notify", "reclaim", "base"},
    "api": {"engine", "link", "object", "memory", "notify", "reclaim", "base"},
    "compile": {"base"},
}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
SOURCES = {".h", ".cpp", ".S"}


def includes(path: pathlib.Path):
    text = path.read_text()
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)


def sources(folder: pathlib.Path):
    return sorted(p for p in folder.rglob("*") if p.suffix in SOURCES) if folder.is_dir() else []


def check_folder(root: pathlib.Path, name: str):
    for path in sources(root / "src" / name):
        for line, quote, target in includes(path):
            where = f"{path.relative_to(root)}:{line}"
            first = target.split("/")[0]
            if quote == "<":
                if first in ("llvm", "llvm-c", "clang", "lld") and name != "compile":
                    yield f"{where}: only src/compile may include {target}"
                if target == "tenon/llvm.h" and name != "compile":
                    yield f"{where}: only src/compile may include {target}"
                if first in ALLOWED and "/" in target:
                    yield f'{where}: our own "{target}" is included with angle brackets'
            elif first not in ALLOWED or "/" not in target:
                yield f'{where}: "{target}": internal headers are included as "folder/name.h"'
            elif first != name and first not in ALLOWED[name]:
                yield f"{where}: src/{name} may not include src/{first}"


def check_clients(root: pathlib.Path, folder: str):
    """The command line and the examples see what a client sees: <tenon/...>, and headers beside themselves."""
    for path in sources(root / folder):
        for line, quote, target in includes(path):
            if "/" in target and target.split("/")[0] in ALLOWED and not (path.parent / target).exists():
                yield f"{path.relative_to(root)}:{line}: {folder} may include public headers only, not {target}"
            if quote == '"' and not (path.parent / target).exists() and not (root / folder / target).exists():
                yield f'{path.relative_to(root)}:{line}: "{target}" does not stand beside the file'


def check_public(root: pathlib.Path):
    for path in sources(root / "include"):
        for line, quote, target in includes(path):
            if quote == '"':
                yield f'{path.relative_to(root)}:{line}: a public header includes "{target}": it must be <tenon/...>'


def check_cmake(root: pathlib.Path, name: str):
    text = (root / "src" / name / "CMakeLists.txt").read_text()
    call = re.search(rf"tenon_component\({name}\b([^)]*)\)", text)
    if not call:
        yield f"src/{name}/CMakeLists.txt: no tenon_component({name} ...)"
        return
    depends = re.search(r"DEPENDS((?:\s+[a-z]+)*)", call.group(1))
    stated = set(depends.group(1).split()) if depends else set()
    if stated != ALLOWED[name]:
        yield f"src/{name}/CMakeLists.txt: depends on {sorted(stated)}, the table says {sorted(ALLOWED[name])}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, type=pathlib.Path)
    root = parser.parse_args().source

    faults = []
    for folder in sorted(p.name for p in (root / "src").iterdir() if p.is_dir()):
        if folder not in ALLOWED:
            faults.append(f"src/{folder}: not in the table of tests/house/folders.py")
            continue
        faults += check_folder(root, folder)
        if folder != "compile":
            faults += check_cmake(root, folder)
    for folder in ("tools", "examples"):
        faults += check_clients(root, folder)
    faults += check_public(root)
    if not sources(root / "src"):
        faults.append(f"{root}/src: no sources found")
    print("\n".join(faults) or "the arrows hold")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
