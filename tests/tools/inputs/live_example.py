"""Edits examples/live while it draws. Usage: live_example.py BIN_DIR EXAMPLE FOLDER

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import pathlib
import sys

from live_terminal import Terminal, fresh_copy, replace_in


class Picture(Terminal):
    def frame(self, title, ball):
        """Waits for a whole picture with this ball; returns the numbers below it."""
        picture = rf"-- {title}; q ends it --\x1b\[K\r\n(?:[ {ball}]*\x1b\[K\r\n)*?( *{ball} *)\x1b\[K\r\n"
        match = self.expect(picture + r"(?:[^-]*\r\n)?frame (\d+), (\d+) bounces")
        return int(match.group(2)), int(match.group(3))

    def goes_on(self, title, ball, count=5):
        """Some pictures, each of which counts on from the one before, whatever happens in between."""
        frames = [self.frame(title, ball) for _ in range(count)]
        self.check(all(a[0] < b[0] and a[1] <= b[1] for a, b in zip(frames, frames[1:])), f"it does not count on: {frames}")
        return frames[-1]


def main():
    bin_dir, example, folder = sys.argv[1], pathlib.Path(sys.argv[2]), fresh_copy(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    draw, scene = folder / "draw.c", folder / "scene.h"
    title = "a ball in a box"
    with Picture([str(folder / "run.sh"), bin_dir], folder) as live:
        live.check("main.c" in live.report(), "the first line")
        while live.frame(title, "o")[1] == 0:
            pass
        before = live.goes_on(title, "o")

        replace_in(draw, "'o'", "'@'")
        live.check("draw.c: draw() changed; 2 variables kept; compile" in live.report(), "what is said of the edit")
        after = live.goes_on(title, "@")
        live.check(after[0] > before[0] and after[1] >= before[1] > 0, f"counters begin again: {before}, {after}")

        replace_in(draw, "'@';", "'*'")
        live.expect(r"draw\.c:\d+:\d+: .*error: .*expected ';'")
        live.check(live.report().endswith("can't be compiled; the old code runs on"), "what is said of the error")
        broken = live.goes_on(title, "@")
        replace_in(draw, "'*'", "'*';")
        live.check("draw.c: draw() changed" in live.report(), "what is said of the repair")
        repaired = live.goes_on(title, r"\*")
        live.check(after[0] < broken[0] < repaired[0] and repaired[1] >= after[1], "counters begin again")

        replace_in(scene, title, "another title")
        live.check("main.c: show() changed" in live.report(), "what is said of the header")
        live.goes_on("another title", r"\*")

        live.send("q")
        status, rest = live.end()
        live.check(status == 0, f"exit status {status}")
        live.check("\x1b[?25h" in rest, "the cursor has not come back")


main()
