"""Headers that come before others of their name, folders that are replaced, and links. Usage: live_folders.py TENON INPUTS FOLDER

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import os
import pathlib
import shutil
import sys

from live_terminal import Terminal, fresh_copy, replace_in


class Session(Terminal):
    def shows(self, number, real):
        """After an edit: one line that speaks of it, and the program's new answer."""
        line = self.report()
        self.check(line.startswith("source/main.c: say() changed; 0 variables kept; compile"), f"what is said of the edit: {line!r}")
        self.send("say\n")
        answer = self.expect(r"number [^\r\n]*\r").group(0).strip()
        self.check(answer == f"number {number} real {real}", f"the program says {answer!r}, not {number} and {real}")


def folders(live: Session, folder: pathlib.Path):
    source, include, elsewhere = folder / "source", folder / "include", folder / "elsewhere"
    live.check(live.report() == "watching source/main.c and 2 headers", "the first line")
    replace_in(include / "number.h", "1", "2")
    live.shows(2, 1)
    # Now found before the other one.
    (source / "number.h").write_text("#define NUMBER 3\n")
    live.shows(3, 1)
    (source / "number.h").unlink()
    live.shows(2, 1)
    # Behind a link, written over and renamed.
    (elsewhere / "real.h").write_text("#define REAL 2\n")
    live.shows(2, 2)
    replace_in(elsewhere / "real.h", "2", "3")
    live.shows(2, 3)
    # As a version control system does: a folder goes, and another takes its place.
    include.rename(folder / "include.old")
    fresh = folder / "include.new"
    fresh.mkdir()
    (fresh / "number.h").write_text("#define NUMBER 4\n")
    fresh.rename(include)
    live.shows(4, 3)
    shutil.copytree(source, folder / "source.new", symlinks=True)
    replace_in(folder / "source.new" / "main.c", "NUMBER,", "10 * NUMBER,")
    source.rename(folder / "source.old")
    (folder / "source.new").rename(source)
    live.shows(40, 3)
    # The new folder is watched as the old one was.
    replace_in(source / "main.c", "10 * NUMBER", "20 * NUMBER")
    live.shows(80, 3)
    live.send("q\n")
    status, _ = live.end()
    live.check(status == 0, f"exit status {status}")


def main():
    tenon, inputs, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    fresh_copy(inputs / "live_folders", folder)
    (folder / "source" / "deep").mkdir()
    os.symlink("../../elsewhere/real.h", folder / "source" / "deep" / "link.h")
    with Session([tenon, "live", "source/main.c", "-X", "-Iinclude", "--settle", "300"], folder) as live:
        folders(live, folder)


main()
