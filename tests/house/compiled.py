"""Every C++ source is compiled in this tree, with warnings as errors: a file that no target takes is found, and so is a target
without the warnings. The release and the asan preset, which .ci/run builds, show it for both compilers.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import json
import pathlib
import sys

FOLDERS = ("src", "tools", "tests", "bench", "fuzz", "examples")
# What tests compile for themselves.
OF_TESTS = ("tests/programs/", "tests/tools/inputs/", "tests/torture/inputs/", "tests/house/consumer/")
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, type=pathlib.Path)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    arguments = parser.parse_args()

    commands = {}
    for entry in json.loads((arguments.build / "compile_commands.json").read_text()):
        commands.setdefault(pathlib.Path(entry["file"]).resolve(), []).append(entry["command"].split())
    faults, count = [], 0
    for path in sorted(p for folder in FOLDERS for p in (arguments.source / folder).rglob("*.cpp")):
        name = path.relative_to(arguments.source).as_posix()
        if name.startswith(OF_TESTS):
            continue
        count += 1
        of_path = commands.get(path.resolve(), [])
        if not of_path:
            faults.append(f"{name}: no target compiles it")
        lacking = sorted({warning for command in of_path for warning in WARNINGS if warning not in command})
        if lacking:
            faults.append(f"{name}: compiled without {' '.join(lacking)}")
    if count == 0:
        faults.append(f"{arguments.source}: no sources found")
    print("\n".join(faults) or f"{count} sources are compiled with {' '.join(WARNINGS)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
