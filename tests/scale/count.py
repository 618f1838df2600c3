#!/usr/bin/env python3
# Counts what tenon-scale does under Callgrind: instructions don't depend on the machine's speed or on what else it does.
#
#   count.py ... print     instructions per module, symbol, relocation, look-up, frame found, removal, and of archives
#   count.py ... growth    fails if what one of N costs grows with N: instructions, heap, engine memory, kernel mappings
#
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile

SMALL = 4000
FACTOR = 4
# A class of growth, not a percentage: what is linear in N, however small, is up to FACTOR times as much.
ALLOWED = 1.3
# Kernel mappings that a larger heap or the next step of an area may take.
MORE_MAPPINGS = 16
# Of the heap that N modules take, how much may stay when they are gone (tables keep their capacity).
MAY_STAY = 0.1


class Phase:
    def __init__(self, line):
        name, times, heap, live, mappings = line.split()
        self.name, self.times, self.heap, self.live, self.mappings = name, int(times), int(heap), int(live), int(mappings)
        self.instructions = None

    def each(self):
        return self.instructions / self.times


def measure(options, *arguments):
    """The phases of one run of the driver, in order."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        done = subprocess.run(
            [options.valgrind, "--tool=callgrind", "--collect-atstart=no", f"--callgrind-out-file={out}", options.driver,
             *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"count.py: {options.driver} {' '.join(map(str, arguments))} failed:\n{done.stderr}")
        phases = {phase.name: phase for phase in map(Phase, done.stdout.splitlines())}
        for path in glob.glob(out + ".*"):
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
            name = re.search(r"^desc: Trigger: Client Request: (\S+)$", text, re.M)
            total = re.search(r"^totals: (\d+)", text, re.M)
            if name and total:
                phases[name[1]].instructions = int(total[1])
    for phase in phases.values():
        if not phase.instructions:
            sys.exit(f"count.py: Callgrind has counted nothing for {phase.name}")
    return phases


def check_growth(options):
    few, many = measure(options, "all", SMALL), measure(options, "all", SMALL * FACTOR)
    wrong = []

    def compare(what, at_few, at_many):
        ratio = at_many / at_few if at_few > 0 else float("inf")
        print(f"{what:42} {at_few:10.1f} {at_many:10.1f} {ratio:6.2f}")
        if ratio > ALLOWED:
            wrong.append(f"{what} grows with the number of modules")

    print(f"{'':42} {'N=' + str(SMALL):>10} {'N=' + str(SMALL * FACTOR):>10}  ratio")
    for name in few:
        compare(f"instructions, {name}", few[name].each(), many[name].each())
    compare("bytes on the heap, a module", few["link"].heap / SMALL, many["link"].heap / (SMALL * FACTOR))
    compare("bytes of engine memory, a module", few["link"].live / SMALL, many["link"].live / (SMALL * FACTOR))
    print(f"{'kernel mappings':42} {few['link'].mappings:10} {many['link'].mappings:10}")
    if many["link"].mappings > few["link"].mappings + MORE_MAPPINGS:
        wrong.append("the number of kernel mappings grows with the number of modules")
    for phases in (few, many):
        stays = phases["link"].heap + phases["remove"].heap
        if stays > MAY_STAY * phases["link"].heap or phases["link"].live + phases["remove"].live != 0:
            wrong.append(f"after all of {phases['link'].times} modules are gone, {stays} bytes stay on the heap")
    for text in wrong:
        print(f"FAILED: {text}")
    return 1 if wrong else 0


def relocations(archive):
    listing = subprocess.run(["readelf", "-rW", archive], stdout=subprocess.PIPE, check=True).stdout
    return listing.count(b" R_X86_64_")


def print_counts(options):
    count, more = 1000, 16
    one = measure(options, "link", count, 1, 1)["link"].each()
    symbols = measure(options, "link", count, 1 + more, 1)["link"].each()
    calls = measure(options, "link", count, 1, 1 + more)["link"].each()
    phases = measure(options, "all", count)
    lines = [
        ("link a module (1 function, 1 relocation)", one),
        ("... each further function: symbol and frame", (symbols - one) / more),
        ("... each further relocation (a call)", (calls - one) / more),
        ("look a symbol up by string", phases["lookup"].each()),
        ("find a frame, the unwinder's way", phases["frames"].each()),
        ("remove a module", phases["remove"].each()),
    ]
    for text, value in lines:
        print(f"{text:46} {value:14,.0f}")
    sets = [[archive] for archive in options.archives]
    if options.together:
        sets.append(options.together)
    if sets:
        print(f"\n{'archives in one change, per relocation':46} {'parse':>8} {'draft':>8} {'place':>8} {'link':>8} "
              f"{'commit':>8} {'sum':>8} {'relocations':>12} {'instructions':>14}")
    for archives in sets:
        stages = measure(options, "archive", *archives)
        count = sum(map(relocations, archives))
        total = sum(stage.instructions for stage in stages.values())
        name = " ".join(os.path.basename(archive) for archive in archives)
        columns = " ".join(f"{stage.instructions / count:8.1f}" for stage in stages.values())
        print(f"{name:46} {columns} {total / count:8.1f} {count:12,} {total:14,}")
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", required=True)
    parser.add_argument("--valgrind", default="valgrind")
    parser.add_argument("what", choices=["print", "growth"])
    parser.add_argument("archives", nargs="*")
    parser.add_argument("--together", nargs="+", default=[], help="archives that need each other")
    options = parser.parse_args()
    return check_growth(options) if options.what == "growth" else print_counts(options)


sys.exit(main())
