-- Patterns, formatting, packing, UTF-8, building of long strings.
-- SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
print(("hello world"):gsub("o", "0"), ("key=value; k2=v2"):gsub("(%w+)=(%w+)", "%2=%1"))
for word, number in ("a1 bb22 ccc333"):gmatch("(%a+)(%d+)") do io.write(word, "-", number, " ") end
print()
print(string.format("%5d|%-8s|%08.3f|%x|%q|%g|%i", 42, "left", 3.14159, 255, 'quote "me"\n', 1e20, 3))
print(("x"):rep(10, ","), ("abc"):reverse(), ("MiXed"):upper(), ("abc"):byte(1, -1))
print(("  trim  "):match("^%s*(.-)%s*$"), ("f(a(b)c)d"):match("%b()"), ("2024-05-06"):find("(%d+)-(%d+)"))
local packed = string.pack("<i4 z s2 d", -5, "zero", "sized", 1.5)
print(#packed, string.unpack("<i4 z s2 d", packed))
print(utf8.char(228, 8364, 128512), utf8.len("äöü€"), utf8.codepoint("€", 1))
for position, code in utf8.codes("aé") do io.write(position, ":", code, " ") end
print()
print(tostring(1e15), tostring(2^53), 0x7fffffffffffffff, 1e308 * 10, -(0/0) ~= -(0/0), math.tointeger("8"), "10" + 5, 10 .. "")
local parts = {}
for i = 1, 3000 do parts[#parts + 1] = ("%d:%s"):format(i, ("ab"):rep(i % 7)) end
local text = table.concat(parts, "\n")
print(#text, select(2, text:gsub("\n", "")), #text:gsub("a", "xyz"))
print(os.date("!%Y-%m-%d %H:%M:%S", 86400 * 365), os.time({year = 2000, month = 1, day = 1, hour = 12}) > 0)
return #text
