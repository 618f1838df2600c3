"""Reads and prepares ELF64 relocatable objects for the differential test: sections, symbols, relocations, unique section
names.

Written apart from Tenon's own reader on purpose: what the two agree on is then no mistake that they share.
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import collections
import struct

SHT_PROGBITS, SHT_RELA, SHT_NOBITS = 1, 4, 8
SHF_ALLOC, SHF_TLS = 2, 0x400
STB_LOCAL, STB_WEAK, STT_TLS, STT_IFUNC = 0, 2, 6, 10

Section = collections.namedtuple("Section", "index name type flags address offset size link info align entsize")
Symbol = collections.namedtuple("Symbol", "name binding type section value size")
Relocation = collections.namedtuple("Relocation", "offset type symbol addend")

# Numbers of the psABI x86-64.
GOTPCREL, GOTPCRELX, REX_GOTPCRELX = 9, 41, 42
TLSGD, TLSLD, DTPOFF32, GOTTPOFF, TPOFF32, TPOFF64, DTPOFF64, TLSDESC_PC32, TLSDESC_CALL = 19, 20, 21, 22, 23, 18, 17, 34, 35
GOT_BASED = {3, 25, 26, 27, 28, 29, 30, 31}
NARROW = {10, 11}  # 32, 32S: only below 2 GiB
WIDTH = {1: 8, 24: 8, 25: 8, 27: 8, 28: 8, 29: 8, 30: 8, 31: 8, 17: 8, 18: 8, 33: 8, 12: 2, 13: 2, 14: 1, 15: 1, 0: 0, 35: 0}


def width(kind):
    return WIDTH.get(kind, 4)


class Elf:
    """An object or a linked file. Sections' contents are slices of `data`."""

    def __init__(self, data):
        self.data = data
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not ELF64, little-endian")
        table, = struct.unpack_from("<Q", data, 40)
        entry, count, names = struct.unpack_from("<HHH", data, 58)
        if table and count == 0:
            count, = struct.unpack_from("<Q", data, table + 32)
        raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
        if names == 0xFFFF:
            names = raw[0][6]
        self.table, self.names = table, names
        strings = raw[names][4]
        self.sections = [Section(i, self.string(strings + h[0]), *h[1:]) for i, h in enumerate(raw)]

    def string(self, at):
        return self.data[at:self.data.index(b"\0", at)].decode()

    def content(self, section):
        return self.data[section.offset:section.offset + section.size] if section.type != SHT_NOBITS else b""

    def symbols(self):
        for table in self.sections:
            if table.type != 2:
                continue
            strings = self.sections[table.link].offset
            for at in range(table.offset, table.offset + table.size, 24):
                name, info, _, section, value, size = struct.unpack_from("<IBBHQQ", self.data, at)
                yield Symbol(self.string(strings + name), info >> 4, info & 15, section, value, size)

    def relocations(self, index):
        for table in self.sections:
            if table.type == SHT_RELA and table.info == index:
                for at in range(table.offset, table.offset + table.size, 24):
                    yield Relocation(*struct.unpack_from("<QIIq", self.data, at))


def with_unique_names(data):
    """The object with a name of its own for each allocated section, so that a linker script can name it."""
    elf = Elf(data)
    seen, renamed = set(), {}
    for section in elf.sections:
        if not section.flags & SHF_ALLOC:
            continue
        if section.name in seen:
            renamed[section.index] = f"{section.name}.unique{section.index}"
        seen.add(section.name)
    if not renamed:
        return data
    out = bytearray(data)
    old = elf.content(elf.sections[elf.names])
    names = bytearray(old)
    for index, name in renamed.items():
        struct.pack_into("<I", out, elf.table + 64 * index, len(names))
        names += name.encode() + b"\0"
    struct.pack_into("<QQ", out, elf.table + 64 * elf.names + 24, len(out), len(names))
    return bytes(out + names)


def undefined(objects):
    """Names that nothing among the objects defines, with those that are thread-local apart."""
    defined, wanted, thread_local = set(), {}, set()
    for elf in objects:
        for symbol in elf.symbols():
            if symbol.binding == STB_LOCAL or not symbol.name:
                continue
            if symbol.section:
                defined.add(symbol.name)
            else:
                wanted[symbol.name] = True
                if symbol.type == STT_TLS:
                    thread_local.add(symbol.name)
    for symbol in list(wanted):
        if symbol in defined or symbol == "_GLOBAL_OFFSET_TABLE_":
            del wanted[symbol]
    sections = {s.name for elf in objects for s in elf.sections if s.flags & SHF_ALLOC}
    bounds = {p + s for s in sections for p in ("__start_", "__stop_")}
    return [name for name in wanted if name not in bounds], thread_local - defined
