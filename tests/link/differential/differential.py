#!/usr/bin/env python3
"""Links the same objects at the same addresses with Tenon and with another linker, and compares every byte that must agree.

Against ld.lld: a linker script made from `tenon link --map` puts every input section where Tenon put it, and an object
with nothing but symbols stands for what --define gives. Code that is position-independent is linked with -shared, so
that lld leaves thread-local accesses as they are, the rest as an executable. Against llvm-jitlink: the other way round,
`tenon link --at` takes the addresses that JITLink chose in its slab (see peer_jitlink.py).

Where the linkers place GOT entries is their own business: such a reference is compared by what the entry holds. What
can't be compared is counted by reason, and the test fails if any byte differs or if too few were compared.

Usage: differential.py --tenon BIN --scratch DIR [--lld PATH] [--clang PATH] [--jitlink PATH] [--verbose]
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import argparse
import pathlib
import shutil
import struct
import sys

import inputs
import objects
import peer_jitlink
from images import Failure, Image, LinkedElf, Tally, parse_map, run

HOST = 0x60000000  # where symbols from outside are said to lie
MINIMUM_COMPARED = 3_000_000
MINIMUM_BY_VALUE = 500

def define_host(names, scratch):
    """An object whose symbols lie at HOST: lld does not relax references to absolute ones."""
    source = scratch / "host.s"
    symbols = "".join(f'.globl "{name}"\n"{name}": .skip 16\n' for name in names)
    source.write_text('.section .host,"awx",@nobits\n' + symbols + ".skip 16\n")
    output = scratch / "host.o"
    run([shutil.which("llvm-mc-22") or "llvm-mc", "-triple=x86_64-linux-gnu", "-filetype=obj", source, "-o", output])
    return output


def write_script(path, sections, host):
    placed = sorted((s for s in sections if not s.name.startswith(".tenon") and s.segment != "unwind"), key=lambda s: s.address)
    lines = [f'  .s{i} {s.address:#x} : {{ KEEP("{s.module}"("{s.name}")) }}' for i, s in enumerate(placed)]
    end = (max(s.address + s.size for s in sections) + 0xFFFFF) & ~0xFFFFF
    for i, name in enumerate((".interp .dynsym .gnu.version .gnu.version_r .gnu.hash .hash .dynstr .rela.dyn .rela.plt "
                              ".eh_frame .plt .iplt .got .got.plt .dynamic .relro_padding .tbss .bss COMMON").split()):
        lines.append(f"  {name if name != 'COMMON' else '.rest'} {end + i * 0x100000:#x} : {{ *({name}) }}")
    lines.append(f'  .host {HOST:#x} : {{ "{host}"(.host) }}')
    lines.append("  /DISCARD/ : { *(.comment) *(.note*) *(.llvm_addrsig) *(.debug*) *(.gnu.warning*) }")
    path.write_text("SECTIONS {\n" + "\n".join(lines) + "\n}\n")


def slot(image, reference, addend, word=0):
    """What the GOT entry holds that the displacement at `reference` leads to; a thread-local one has two words."""
    field = image.read(reference, 4)
    return field and image.read(reference - addend + struct.unpack("<i", field)[0] + 8 * word, 8)


class Comparison:
    """One input section in both images."""

    def __init__(self, elf, section, where, ours, theirs, modules):
        self.elf, self.section, self.where = elf, section, where
        self.ours, self.theirs, self.modules = ours, theirs, modules
        self.tally = Tally()

    def exclude(self, covered, begin, size, reason):
        covered.append((begin, begin + size))
        self.tally.excluded[reason] += size

    def judge(self, relocation, covered):
        """Takes a field out of the byte-by-byte comparison if it may differ."""
        kind, offset = relocation.type, relocation.offset
        at, size = self.where.address + offset, objects.width(relocation.type)
        begin = at - min(offset, 3)
        if self.ours.read(begin, at - begin + size) == self.theirs.read(begin, at - begin + size):
            return
        if kind in (objects.GOTPCREL, objects.GOTPCRELX, objects.REX_GOTPCRELX):
            mine = slot(self.ours, at, relocation.addend)
            if mine is not None and mine == slot(self.theirs, at, relocation.addend):
                covered.append((offset, offset + size))
                self.tally.by_value += 1
        elif kind in (objects.TLSGD, objects.TLSLD):
            mine, other = (slot(image, at, relocation.addend, 1) for image in (self.ours, self.theirs))
            if mine is not None and (mine == other or self.modules > 1):
                covered.append((offset, offset + size))
                self.tally.by_value += 1
        elif kind in (objects.DTPOFF32, objects.DTPOFF64) and self.modules > 1:
            self.exclude(covered, offset, size, "offsets in a thread-local block that lld shares among all modules")
        elif kind == objects.TLSDESC_PC32:
            self.exclude(covered, offset, size, "places of TLS descriptors")
        elif kind in objects.GOT_BASED:
            self.exclude(covered, offset, size, "distances from the GOT")

    def run(self):
        mine, other = (image.read(self.where.address, self.section.size) for image in (self.ours, self.theirs))
        if other is None and ".DW.ref." in self.where.name:
            # A COMDAT group of eight bytes that Tenon lets every module keep, and lld keeps once.
            self.tally.excluded["own copies of pointers to personality routines"] += self.section.size
            return self.tally
        if mine is None or other is None:
            self.tally.differences.append(f"{self.where}: {'Tenon' if mine is None else 'the peer'} has no bytes there")
            return self.tally
        covered = []
        for relocation in self.elf.relocations(self.section.index):
            self.judge(relocation, covered)
        self.tally.compared += self.section.size - sum(end - begin for begin, end in covered)
        if mine != other:
            inside = bytearray(len(mine))
            for begin, end in covered:
                inside[begin:end] = b"\1" * (end - begin)
            wrong = [i for i in range(len(mine)) if mine[i] != other[i] and not inside[i]]
            if wrong:
                self.tally.differences.append(self.describe(wrong, mine, other))
        return self.tally

    def describe(self, wrong, mine, other):
        at = wrong[0]
        near = [r for r in self.elf.relocations(self.section.index) if r.offset - 4 <= at < r.offset + 8]
        begin = max(0, at - 4)
        return (f"{self.where.module}: {self.where.name}+{at:#x} (at {self.where.address + at:#x}): {len(wrong)} bytes differ; "
                f"ours {mine[begin:at + 8].hex(' ')}, theirs {other[begin:at + 8].hex(' ')}; relocations there {near}")


def compare_with_lld(group, arguments):
    scratch = pathlib.Path(arguments.scratch) / group.name
    elves = {path: objects.Elf(path.read_bytes()) for path in group.paths}
    names, thread_local = objects.undefined(elves.values())
    if thread_local:
        raise Failure(f"thread-local symbols from outside: {thread_local}")
    defines = scratch / "defines"
    definitions = [f"--define={name}={HOST + 16 * i:#x}" for i, name in enumerate(names)]
    defines.write_text("\n".join(definitions))
    image, link_map = scratch / "image", scratch / "map"
    run([arguments.tenon, "link", *definitions, f"--map={link_map}", "-o", image, *group.paths])
    sections = parse_map(link_map.read_text())
    host = define_host(names, scratch)
    write_script(scratch / "script", sections, host)
    output = scratch / "peer"
    mode = ["-shared", "-Bsymbolic", "--apply-dynamic-relocs"] if group.pic else ["-no-pie", "-z", "notext"]
    run([arguments.lld, *mode, "-O0", "-z", "norelro", "--no-check-sections", "--no-gc-sections", "--build-id=none",
         "-z", "separate-code", "--hash-style=gnu", "-T", scratch / "script", *group.paths, host, "-e", "0", "-o", output])
    ours, theirs = Image(image, sections), LinkedElf(output)
    tally = Tally()
    by_place = {(s.module, s.name): s for s in sections}
    for path, elf in elves.items():
        for section in elf.sections:
            if not section.flags & objects.SHF_ALLOC or not section.size:
                continue
            where = by_place.get((str(path), section.name))
            if where is None:
                tally.excluded["sections that are not part of the module: dropped COMDAT copies, notes"] += section.size
            elif section.type == objects.SHT_NOBITS:
                tally.excluded["zero-filled sections"] += section.size
            elif section.name.startswith(".eh_frame"):
                tally.excluded["unwind information, which lld rewrites"] += section.size
            else:
                tally.add(Comparison(elf, section, where, ours, theirs, len(elves)).run())
    return tally


def report(what, tally):
    excluded = "".join(f"\n    not compared: {size:9} bytes: {reason}" for reason, size in sorted(tally.excluded.items()))
    print(f"{what}: {tally.compared} bytes compared, {tally.by_value} GOT entries compared by value, "
          f"{len(tally.differences)} sections differ{excluded}", flush=True)
    for difference in tally.differences[:20]:
        print("  " + difference)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tenon", default="tenon")
    parser.add_argument("--scratch", default="/tmp/tenon_differential")
    parser.add_argument("--lld", default="ld.lld-22")
    parser.add_argument("--clang", default="clang-22")
    parser.add_argument("--jitlink", default="llvm-jitlink-22")
    parser.add_argument("--verbose", action="store_true", help="report every group")
    parser.add_argument("groups", nargs="*")
    arguments = parser.parse_args()
    lld_total, jitlink_total, failures = Tally(), Tally(), []
    for group in inputs.make_groups(arguments, run):
        for peer, compare, total in (("ld.lld", compare_with_lld, lld_total),
                                     ("llvm-jitlink", peer_jitlink.compare, jitlink_total)):
            if peer == "llvm-jitlink" and not group.jitlink:
                continue
            try:
                tally = compare(group, arguments)
            except Failure as failure:
                failures.append(f"{group.name} with {peer}: {failure}")
                continue
            if arguments.verbose or tally.differences:
                report(f"{group.name} with {peer}", tally)
            total.add(tally)
    report("ld.lld", lld_total)
    report("llvm-jitlink", jitlink_total)
    if not arguments.groups:
        for total, least, what in ((lld_total.compared, MINIMUM_COMPARED, "bytes compared with ld.lld"),
                                   (lld_total.by_value, MINIMUM_BY_VALUE, "GOT entries compared with ld.lld"),
                                   (jitlink_total.compared, peer_jitlink.MINIMUM_COMPARED, "bytes compared with llvm-jitlink")):
            if total < least:
                failures.append(f"only {total} {what}, at least {least} were expected")
    for failure in failures:
        print("FAILED " + failure)
    return 1 if failures or lld_total.differences or jitlink_total.differences else 0


if __name__ == "__main__":
    sys.exit(main())
