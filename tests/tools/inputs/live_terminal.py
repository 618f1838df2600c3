"""A program under `tenon live` in a pseudo-terminal, and the editor beside it.

Nothing here sleeps to let something happen: every step waits for what the terminal shows, and fails with all that it has shown if
that does not come in time.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time

TIMEOUT_S = 90
SHOWN = 4000  # characters in a report of a failure


class Terminal:
    def __init__(self, command, cwd):
        self.shown = ""
        self.seen = 0  # what expect() has passed
        self.master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        environment = dict(os.environ, TERM="xterm", NO_COLOR="1")
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True)
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def send(self, text):
        os.write(self.master, text.encode())

    def read_some(self, deadline):
        """False: nothing more will come."""
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            self.fail("nothing came in time")
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # EIO: the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern):
        """Waits for the pattern behind what was expected before; returns the match."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            match = re.search(pattern, self.shown[self.seen:])
            if match:
                self.seen += match.end()
                return match
            if not self.read_some(deadline):
                self.fail(f"the terminal was closed while waiting for {pattern!r}")
            if time.monotonic() > deadline:
                self.fail(f"waited in vain for {pattern!r}")

    def report(self):
        """The next line of `tenon live`, compiler's messages left out."""
        return self.expect(r"tenon: (?!compiling)([^\r\n]*)\r").group(1)

    def end(self):
        """Reads to the end; returns the exit status and what was shown since the last expect()."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.read_some(deadline):
            pass
        status = self.process.wait(timeout=max(1, deadline - time.monotonic()))
        return status, self.shown[self.seen:]

    def fail(self, why):
        print(f"{why}\n----- shown and expected -----\n{self.shown[:self.seen][-SHOWN:]}", file=sys.stderr)
        sys.exit(f"----- shown since -----\n{self.shown[self.seen:][:SHOWN]}\n----- the last of it -----\n{self.shown[-SHOWN:]}")

    def check(self, condition, what):
        if not condition:
            self.fail(what)


def replace_in(path: pathlib.Path, old: str, new: str, rename=True):
    """Saves an edit as most editors do, by renaming a new file, or by writing over the old one."""
    text = path.read_text()
    if old not in text:
        sys.exit(f"{path}: there is no {old!r}")
    text = text.replace(old, new)
    if not rename:
        path.write_text(text)
        return
    beside = path.with_name(path.name + "~new")
    beside.write_text(text)
    os.replace(beside, path)


def fresh_copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
