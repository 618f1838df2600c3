#!/usr/bin/env python3
"""Damages an ELF object in a chosen way, for tests that need what no assembler writes.

Usage: patch_object.py IN OUT EDIT...
  rela:SECTION:INDEX:FIELD=VALUE[,...]   a record of a relocation section; fields offset, type, symbol, addend
  bytes:SECTION:OFFSET:HEX               the content of a section
  header:SECTION:FIELD=VALUE[,...]       a section header; fields type, flags, offset, size, link, info, align, entsize
  symbol:NAME:FIELD=VALUE[,...]          a symbol; fields info, other, section, value, size
Layouts are those of the System V gABI, ELF64 little-endian.
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import struct
import sys

HEADER_FIELDS = {"type": (4, "<I"), "flags": (8, "<Q"), "offset": (24, "<Q"), "size": (32, "<Q"), "link": (40, "<I"),
                 "info": (44, "<I"), "align": (48, "<Q"), "entsize": (56, "<Q")}
RELA_FIELDS = {"offset": (0, "<Q"), "type": (8, "<I"), "symbol": (12, "<I"), "addend": (16, "<q")}
SYMBOL_FIELDS = {"info": (4, "<B"), "other": (5, "<B"), "section": (6, "<H"), "value": (8, "<Q"), "size": (16, "<Q")}


class Elf:
    def __init__(self, data):
        self.data = bytearray(data)
        self.table, = struct.unpack_from("<Q", data, 40)
        self.count, names = struct.unpack_from("<HH", data, 60)
        strings = self.header_field(names, "offset")
        self.by_name = {self.string(strings + struct.unpack_from("<I", data, self.table + 64 * i)[0]): i
                        for i in range(self.count)}

    def string(self, at):
        return self.data[at:self.data.index(0, at)].decode()

    def header_field(self, index, field):
        at, form = HEADER_FIELDS[field]
        return struct.unpack_from(form, self.data, self.table + 64 * index + at)[0]

    def offset(self, section):
        if section not in self.by_name:
            sys.exit(f"patch_object: no section {section}; there are {' '.join(self.by_name)}")
        return self.header_field(self.by_name[section], "offset")

    def store(self, base, fields, assignments):
        for assignment in assignments.split(","):
            field, value = assignment.split("=")
            at, form = fields[field]
            struct.pack_into(form, self.data, base + at, int(value, 0))

    def symbol_offset(self, name):
        table = self.by_name[".symtab"]
        strings = self.header_field(self.header_field(table, "link"), "offset")
        start = self.header_field(table, "offset")
        for at in range(start, start + self.header_field(table, "size"), 24):
            if self.string(strings + struct.unpack_from("<I", self.data, at)[0]) == name:
                return at
        sys.exit(f"patch_object: no symbol {name}")

    def apply(self, edit):
        kind, name, rest = edit.split(":", 2)
        if kind == "rela":
            index, assignments = rest.split(":")
            self.store(self.offset(name) + 24 * int(index), RELA_FIELDS, assignments)
        elif kind == "bytes":
            at, text = rest.split(":")
            content = bytes.fromhex(text)
            begin = self.offset(name) + int(at, 0)
            self.data[begin:begin + len(content)] = content
        elif kind == "header":
            self.offset(name)
            self.store(self.table + 64 * self.by_name[name], HEADER_FIELDS, rest)
        elif kind == "symbol":
            self.store(self.symbol_offset(name), SYMBOL_FIELDS, rest)
        else:
            sys.exit(f"patch_object: unknown edit {edit}")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as source:
        elf = Elf(source.read())
    for edit in sys.argv[3:]:
        elf.apply(edit)
    with open(sys.argv[2], "wb") as target:
        target.write(elf.data)


if __name__ == "__main__":
    main()
