"""Compares with JITLink: `tenon link --at` takes the addresses that llvm-jitlink chose in its slab, and a check expression
for every word of our bytes is evaluated by llvm-jitlink -check, which prints what it has instead where it differs.
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import re
import struct
import subprocess

import objects
from images import Failure, Image, Tally, parse_map, run

SLAB = 0x10000000
HOST = 0x30000000
MINIMUM_COMPARED = 300_000

SECTION = re.compile(r'^ +Section "([^"]+)": target addr = 0x([0-9a-f]+), '
                     r'(?:content: 0x([0-9a-f]+) -- 0x([0-9a-f]+)|zero-fill: (\d+))')
WRONG = re.compile(r"section_addr\(([^,]+), ([^)]+)\) \+ (\d+)\).* is false: 0x([0-9a-f]+) != 0x([0-9a-f]+)")


def link_there(jitlink, path, names, extra, timeout=60):
    command = [jitlink, "-noexec", "-slab-allocate=16Mb", f"-slab-address={SLAB:#x}", "-slab-page-size=4096",
               *(f"-abs={name}={HOST + 16 * i:#x}" for i, name in enumerate(names)), *extra, path]
    return subprocess.run([str(part) for part in command], capture_output=True, timeout=timeout)


def places(text):
    for line in text.split("\n"):
        if match := SECTION.match(line):
            name, address, begin, end, zero = match.groups()
            yield name, int(address, 16), int(zero) if zero else int(end, 16) - int(begin, 16)


def checks(path, name, content):
    """Words, then what is left over."""
    at = 0
    for size, form in ((8, "<Q"), (4, "<I"), (2, "<H"), (1, "<B")):
        while len(content) - at >= size:
            value, = struct.unpack_from(form, content, at)
            yield f"# jitlink-check: *{{{size}}}(section_addr({path.name}, {name}) + {at}) = {value:#x}"
            at += size


def compare(group, arguments):
    total = Tally()
    for path in group.paths:
        elf = objects.Elf(path.read_bytes())
        names, _ = objects.undefined([elf])
        entry = next(s.name for s in elf.symbols() if s.binding and s.section)
        shown = link_there(arguments.jitlink, path, names, ["-show-addrs", f"-entry={entry}"])
        found = {name: (address, size) for name, address, size in places(shown.stdout.decode() + shown.stderr.decode())}
        own = {s.name: s for s in elf.sections if s.flags & objects.SHF_ALLOC and s.size}
        if not found:
            reason = "objects that llvm-jitlink refuses: " + re.sub(r".*: |\d.*", "", shown.stderr.decode().strip().split("\n")[-1])
            total.excluded[reason] += sum(section.size for section in own.values())
            continue
        usable = {n: a for n, (a, size) in found.items() if n in own and own[n].size == size and not n.startswith(".eh_frame")}
        for name, section in own.items():
            if section.type == objects.SHT_NOBITS:
                total.excluded["zero-filled sections"] += section.size
            elif name not in usable:
                total.excluded["sections that JITLink merges, drops or rewrites"] += section.size
        image, link_map = path.with_suffix(".image"), path.with_suffix(".map")
        run([arguments.tenon, "link", *(f"--define={n}={HOST + 16 * i:#x}" for i, n in enumerate(names)),
             *(f"--at={n}={a:#x}" for n, a in usable.items()), "--at=text=0x18000000", f"--map={link_map}", "-o", image, path])
        total.add(compare_words(arguments, path, entry, names, elf, usable, Image(image, parse_map(link_map.read_text()))))
    return total


def compare_words(arguments, path, entry, names, elf, usable, ours):
    rules, tally = [], Tally()
    for name, address in usable.items():
        section = next(s for s in elf.sections if s.name == name)
        if section.type == objects.SHT_NOBITS:
            continue
        rules += checks(path, name, ours.read(address, section.size))
        tally.compared += section.size
    file = path.with_suffix(".check")
    file.write_text("\n".join(rules) + "\n")
    result = link_there(arguments.jitlink, path, names, [f"-check={file}", f"-entry={entry}"])
    output = result.stdout.decode(errors="replace") + result.stderr.decode(errors="replace")
    wrong = [line for line in output.split("\n") if "is false" in line]
    if result.returncode != 0 and not wrong:
        raise Failure(f"llvm-jitlink {path}: {output[:500]}")
    for line in wrong:
        _, name, at, theirs, mine = WRONG.search(line).groups()
        at = int(at)
        section = next(s for s in elf.sections if s.name == name)
        excused = excuse(elf, section, at)
        if excused:
            tally.compared -= 8
            tally.excluded[excused] += 8
        else:
            near = [r for r in elf.relocations(section.index) if r.offset + 8 > at > r.offset - 8]
            tally.differences.append(f"{path}: {name}+{at:#x}: ours {mine}, theirs {theirs}; relocations there {near}")
    return tally


def excuse(elf, section, at):
    """Why a word may differ: it overlaps a reference whose target the linkers place each in its own way."""
    for relocation in elf.relocations(section.index):
        if relocation.offset - 3 < at + 8 and at < relocation.offset + objects.width(relocation.type):
            if relocation.type in (objects.GOTPCREL, objects.GOTPCRELX, objects.REX_GOTPCRELX):
                return "words with a reference to a GOT entry"
            if relocation.type in (objects.TLSGD, objects.TLSLD, objects.TLSDESC_PC32, objects.GOTTPOFF):
                return "words with a reference to a thread-local entry"
    return None
