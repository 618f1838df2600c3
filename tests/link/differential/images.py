"""Linked bytes by address, from both sides, and what the comparisons count.
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import collections
import subprocess

import objects

MapSection = collections.namedtuple("MapSection", "address size segment name module")


class Failure(Exception):
    pass


def run(command, timeout=300):
    result = subprocess.run([str(part) for part in command], capture_output=True, timeout=timeout)
    if result.returncode != 0:
        line = " ".join(map(str, command))
        raise Failure(f"{line[:600]}\n{result.stderr.decode(errors='replace')[:2000]}")
    return result.stdout.decode(errors="replace")


def parse_map(text):
    """The sections of a link map of ours."""
    lines = text.split("\n")
    start = lines.index("SECTIONS") + 2
    sections = []
    for line in lines[start:lines.index("", start)]:
        address, size, _, segment, name, module = line.split(None, 5)
        sections.append(MapSection(int(address, 16), int(size), segment, name, module))
    return sections


class Image:
    """Linked bytes by address: what `tenon link -o` wrote."""

    def __init__(self, path, sections):
        self.bytes = path.read_bytes()
        self.base = min(s.address for s in sections if s.size)

    def read(self, address, size):
        at = address - self.base
        return self.bytes[at:at + size] if 0 <= at and at + size <= len(self.bytes) else None


class LinkedElf:
    """Linked bytes by address: the executable or shared object of another linker."""

    def __init__(self, path):
        self.elf = objects.Elf(path.read_bytes())
        self.placed = sorted((s for s in self.elf.sections if s.flags & objects.SHF_ALLOC and s.size
                              and s.type != objects.SHT_NOBITS), key=lambda s: s.address)

    def read(self, address, size):
        for section in self.placed:
            if section.address <= address and address + size <= section.address + section.size:
                at = section.offset + address - section.address
                return self.elf.data[at:at + size]
        return None


class Tally:
    def __init__(self):
        self.compared = self.by_value = 0
        self.excluded = collections.Counter()
        self.differences = []

    def add(self, other):
        self.compared += other.compared
        self.by_value += other.by_value
        self.excluded += other.excluded
        self.differences += other.differences
