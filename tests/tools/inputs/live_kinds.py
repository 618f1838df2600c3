"""Files of other kinds than C, variables that come or change their size, and --log. Usage: live_kinds.py TENON INPUTS FOLDER CLANG

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import os
import pathlib
import subprocess
import sys

from live_terminal import Terminal, fresh_copy, replace_in


def build_object(clang: str, folder: pathlib.Path):
    """As a Makefile would: the object appears at once, by its final name."""
    subprocess.run([clang, "-g", "-O1", "-fPIC", "-ffunction-sections", "-c", "extra.c", "-o", "extra.new"], cwd=folder, check=True,
                   timeout=60)
    os.replace(folder / "extra.new", folder / "extra.o")


class Session(Terminal):
    def say(self, expected):
        self.send("say\n")
        line = self.expect(r"answer [^\r\n]*\r").group(0).strip()
        self.check(line == expected, f"the program says {line!r}, not {expected!r}")

    def reports(self, *parts):
        line = self.report()
        for part in parts:
            self.check(part in line, f"no {part!r} in {line!r}")

    def quit(self, *lines):
        self.send("q\n")
        status, rest = self.end()
        self.check(status == 3, f"exit status {status}")
        shown = [line.strip() for line in rest.splitlines() if line.strip()]
        self.check(shown == list(lines), f"at the end the program says {shown}, not {lines}")


def kinds(live: Session, folder: pathlib.Path, clang: str):
    live.expect(r"begin one\r")
    live.reports("watching main.cpp, answer.ll, extra.o")
    live.say("answer 1 extra 7 table 8: 5")
    replace_in(folder / "answer.ll", "ret i32 %now", "%twice = mul i32 %now, 2\n  ret i32 %twice")
    live.reports("answer.ll: answer() changed; 1 variable kept")
    live.say("answer 4 extra 7 table 8: 6")
    replace_in(folder / "answer.ll", "ret i32 %twice", "ret i32 %nothing")
    live.reports("error: ", "answer.ll:8:", "nothing")
    live.reports("error: answer.ll can't be compiled; the old code runs on")
    live.say("answer 6 extra 7 table 8: 7")
    replace_in(folder / "answer.ll", "ret i32 %nothing", "ret i32 %now")
    live.reports("answer.ll: answer() changed; 1 variable kept")
    live.say("answer 4 extra 7 table 8: 8")

    replace_in(folder / "extra.c", "7", "8")
    build_object(clang, folder)
    live.reports("extra.o: extra() changed; 0 variables kept")
    live.say("answer 5 extra 8 table 8: 9")

    # Callers that are not replaced don't know.
    replace_in(folder / "extra.c", "(void)", "(long more)")
    build_object(clang, folder)
    live.reports("warning: 'extra' of module extra.o: was int (), is int (long): callers that are not replaced")
    live.reports("extra.o: no function changed; 0 variables kept")

    # A variable that is new is initialized, and only that one; one that has grown is refused.
    replace_in(folder / "main.cpp", 'Noisy one("one");', 'Noisy one("one");\nNoisy two("two");')
    live.expect(r"begin two\r")
    live.reports("main.cpp: ", "2 variables kept, two new")
    replace_in(folder / "main.cpp", "table[2] = {5, 6}", "table[3] = {50, 60, 70}")
    live.reports("error: main.cpp: variable 'table' can't keep its value", "8 bytes before, 12 now", "; the old code runs on")
    live.say("answer 6 extra 8 table 8: 10")
    replace_in(folder / "main.cpp", "table[3] = {50, 60, 70}", "table[2] = {50, 60}")
    live.reports("main.cpp: no function changed; 3 variables kept, table with a new initial value that is not used")
    live.say("answer 7 extra 8 table 8: 11")
    live.quit("end two", "end one")


def resized_and_logged(live: Session, folder: pathlib.Path):
    live.expect(r"begin one\r")
    live.say("answer 1 extra 8 table 8: 5")
    replace_in(folder / "main.cpp", "table[2] = {5, 6}", "table[3] = {50, 60, 70}")
    # Only the program shows that the change has arrived.
    answers, extra = 1, "answer 1"
    while "table 12" not in extra:
        live.send("say\n")
        answers += 1
        extra = live.expect(r"answer [^\r\n]*\r").group(0)
    live.check("table 12: 50" in extra, f"a variable that begins anew: {extra!r}")
    live.say(f"answer {answers + 1} extra 8 table 12: 51")
    live.quit("end one")
    live.check("tenon" not in live.shown, "the terminal shows what belongs into the log")


def main():
    tenon, inputs, folder, clang = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
    command = [tenon, "live", "main.cpp", "answer.ll", "extra.o"]
    fresh_copy(inputs / "live_kinds", folder)
    build_object(clang, folder)
    with Session(command, folder) as live:
        kinds(live, folder, clang)

    extra = (folder / "extra.o").read_bytes()
    fresh_copy(inputs / "live_kinds", folder)
    (folder / "extra.o").write_bytes(extra)
    with Session(command + ["--log", "live.log", "--resized", "reinitialize"], folder) as live:
        resized_and_logged(live, folder)
    log = (folder / "live.log").read_text().splitlines()
    if len(log) != 2 or not log[0].startswith("tenon: watching main.cpp") or ", table new; compile" not in log[1]:
        sys.exit(f"the log: {log}")


main()
