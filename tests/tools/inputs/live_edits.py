"""Edits of all kinds to a program that answers each line it reads with one. Usage: live_edits.py TENON INPUTS FOLDER

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import pathlib
import re
import sys

from live_terminal import Terminal, fresh_copy, replace_in

TIMES = r"compile \d+(\.\d+)? ms, link \d+(\.\d+)? ms, swap \d+(\.\d+)? ms"


class Session(Terminal):
    def tick(self, expected):
        self.send("tick\n")
        line = self.expect(r"[^\r\n]*: file \d+ [^\r\n]*\r").group(0).strip()
        self.check(line == expected, f"the program says {line!r}, not {expected!r}")

    def swapped(self, *parts):
        line = self.report()
        self.expect(r"\n")
        for part in parts:
            self.check(part in line, f"no {part!r} in {line!r}")
        self.check(re.search(TIMES + "$", line), f"no times at the end of {line!r}")

    def refused(self, *parts):
        line = self.report()
        for part in ("error: ", "; the old code runs on", *parts):
            self.check(part in line, f"no {part!r} in {line!r}")


def edits(live: Session, folder: pathlib.Path):
    tick, header, main = folder / "tick.cpp", folder / "words.h", folder / "main.cpp"
    live.check(live.report() == "watching main.cpp, tick.cpp and 1 header", "the first line")
    live.expect(r"ready with 3 arguments, the last is two\r")
    live.tick("first: file 11 local 21 shared 41 twice 22 ending first")

    # A function, and a static one.
    replace_in(tick, '"%s: file', '"edited %s: file')
    live.swapped("tick.cpp: tick() changed; 2 variables kept")
    live.tick("edited first: file 12 local 22 shared 42 twice 24 ending first")
    replace_in(tick, "2 * number", "20 * number", rename=False)
    live.swapped("tick.cpp: twice(int) changed; 2 variables kept")
    live.tick("edited first: file 13 local 23 shared 43 twice 260 ending first")

    # What can't be compiled, twice, and the repair.
    replace_in(tick, "++file_count;", "++file_count")
    live.expect(r"tick\.cpp:\d+:\d+: error: expected ';'")
    live.refused("tick.cpp can't be compiled")
    live.tick("edited first: file 14 local 24 shared 44 twice 280 ending first")
    replace_in(tick, "edited %s: file", "repaired %s: file")
    live.refused("tick.cpp can't be compiled")
    live.tick("edited first: file 15 local 25 shared 45 twice 300 ending first")
    replace_in(tick, "++file_count\n", "++file_count;\n")
    live.swapped("tick.cpp: tick() changed")
    live.tick("repaired first: file 16 local 26 shared 46 twice 320 ending first")

    # What can't be linked, and its repair in another file, which brings both.
    replace_in(tick, "void tick() {", "int missing_one();\nvoid tick() {\n  file_count += missing_one();")
    live.refused("tick.cpp: undefined symbol: missing_one() (needed by tick.cpp")
    live.tick("repaired first: file 17 local 27 shared 47 twice 340 ending first")
    replace_in(main, "int main(", "int missing_one() { return 1000; }\nint main(")
    live.swapped("main.cpp, tick.cpp: ", "tick() changed, missing_one() new")
    live.tick("repaired first: file 1018 local 28 shared 48 twice 20360 ending first")

    # A header is a change of all that include it, in one line.
    replace_in(header, '"first"', '"second"')
    live.swapped("main.cpp, tick.cpp: ending(), tick() changed; 4 variables kept")
    live.tick("repaired second: file 2019 local 29 shared 49 twice 40380 ending second")

    # Several files that are saved together are one change: a function gets another parameter.
    replace_in(header, "const char* ending();", "const char *ending(int);")
    replace_in(main, 'ending() { return "ending "', 'ending(int) { return "longer "')
    replace_in(main, "ending())", "ending(0))")
    replace_in(tick, "ending())", "ending(1))")
    live.swapped("main.cpp, tick.cpp: ", "ending(int) new", "ending() gone")
    live.tick("repaired second: file 3020 local 30 shared 50 twice 60400 longer second")

    # A file that vanishes leaves its code; it comes back with a new variable and a header that was not there.
    text = tick.read_text()
    tick.unlink()
    live.check(live.report() == "tick.cpp is gone; its code runs on", "a file that is gone")
    live.tick("repaired second: file 4021 local 31 shared 51 twice 80420 longer second")
    text = text.replace("+= missing_one()", "+= extra()").replace("int missing_one();", "")
    tick.write_text('#include "later.h"\n' + text)
    live.expect(r"'later\.h' file not found")
    live.refused("tick.cpp can't be compiled")
    (folder / "later.h").write_text("static int one = 1;\nstatic inline int extra() { return one++; }\n")
    live.swapped("tick.cpp: tick() changed, extra() new; 2 variables kept, one new")
    live.tick("repaired second: file 4023 local 32 shared 52 twice 80460 longer second")

    # Saved as it was.
    tick.write_text(tick.read_text())
    live.check("tick.cpp: no change in the code; compile " in live.report(), "a file that was saved as it was")
    live.tick("repaired second: file 4026 local 33 shared 53 twice 80520 longer second")

    live.send("q\n")
    status, rest = live.end()
    live.check(status == 7, f"exit status {status}")
    live.check(rest.count("destroyed after 53, longer second") == 1, "destructors have not run once, in the last version")


def main():
    tenon, inputs, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    fresh_copy(inputs / "live", folder)
    command = [tenon, "live", "main.cpp", "tick.cpp", "--settle", "500", "--", "one", "two"]
    with Session(command, folder) as live:
        edits(live, folder)


main()
