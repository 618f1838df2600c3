"""Random edits of a C++ program that runs: lambdas in all places, statics, templates, std::function, exceptions, coroutines,
threads, thread_local and inline variables. After each one the program says what its newest sound source says.
Usage: live_stress.py TENON FOLDER EDITS SEED

What a closure, or a coroutine, that was made earlier answers is one of the sources since then: `Held` has what each may say.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import os
import pathlib
import random
import shutil
import sys

from live_terminal import Terminal

HEADER = """#pragma once
#include <algorithm>
#include <coroutine>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>
void report();
"""

PARTS_HEAD = """#include "parts.h"
struct Steps {
  struct promise_type {
    int value = 0;
    Steps get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    std::suspend_always yield_value(int v) { value = v; return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
  int next() { handle.resume(); return handle.promise().value; }
};
static thread_local int per_thread = 5;
"""

MAIN = """#include "parts.h"
%(above)s
int main() {
  int ticks = 0;
%(before)s
  auto step = [&%(capture)s](int add) { return ticks * %(factor)d + add%(use)s; };
  std::function<int()> held = [ticks = 7%(capture)s] { return ticks * %(factor)d%(use)s; };
  std::printf("ready\\n");
  char line[64];
  while (std::fgets(line, sizeof line, stdin)) {
    if (line[0] == 'q') break;
    ++ticks;
    std::printf("main=%%d held=%%d ", step(1), held());
    report();
    std::printf("end\\n");
    std::fflush(stdout);
  }
  return 7;
}
"""


class Held:
    """A closure's answers: made by one source, run by that one or any later one."""

    def __init__(self, code):
        self.codes = [code]

    def now(self, code):
        if code not in self.codes:
            self.codes.append(code)


class Part:
    """One function of the program. `text` is its source, `expect` what it may say at a tick with its state in self.state."""

    def __init__(self, number, random_):
        self.n = number
        self.random = random_
        self.k = random_.randrange(1, 100)
        self.state = None

    def edit(self):
        self.k = self.random.randrange(1, 100)

    def accept(self):
        """Its source is in force."""


class Plain(Part):
    def text(self):
        return f"static int part{self.n}() {{ return {self.k}; }}"

    def expect(self):
        return {self.k}


class Counter(Part):
    first = 10

    def text(self):
        return f"static int part{self.n}() {{ static int count = {self.first}; return count += {self.k}; }}"

    def expect(self):
        self.state = (self.first if self.state is None else self.state) + self.k
        return {self.state}


class Inline(Part):
    def text(self):
        return f"inline int shared{self.n} = 3;\nstatic int part{self.n}() {{ return shared{self.n} += {self.k}; }}"

    def expect(self):
        self.state = (3 if self.state is None else self.state) + self.k
        return {self.state}


class Dynamic(Part):
    """Initialized by code, once."""

    def text(self):
        return (f"static std::map<int, int> map{self.n} = [] {{ return std::map<int, int>{{{{1, {self.k}}}}}; }}();\n"
                f"static int part{self.n}() {{ return ++map{self.n}[1]; }}")

    def expect(self):
        self.state = (self.k if self.state is None else self.state) + 1
        return {self.state}


class Lambdas(Part):
    """Some lambdas in one function, of one or of several types of closure, one with a variable of its own."""

    def __init__(self, *a):
        super().__init__(*a)
        self.ks = [self.k]

    def edit(self):
        what = self.random.randrange(4)
        if what == 0:
            self.ks.insert(self.random.randrange(len(self.ks) + 1), self.random.randrange(100))
        elif what == 1 and len(self.ks) > 1:
            self.ks.pop(self.random.randrange(len(self.ks)))
        elif what == 2:
            self.random.shuffle(self.ks)
        else:
            self.ks[self.random.randrange(len(self.ks))] = self.random.randrange(100)

    def text(self):
        body = "".join(f"  auto l{i} = [{'&' if k % 2 else '=, &sum'}](int x) {{ sum += x + {k} + a{' * b' if k % 3 == 0 else ''}; }};\n"
                       f"  l{i}({i});\n" for i, k in enumerate(self.ks))
        return (f"static int part{self.n}() {{\n  int sum = 0, a = 2, b = 3;\n{body}"
                f"  return [&] {{ static int count = 0; return sum * 1000 + ++count; }}();\n}}")

    def expect(self):
        self.state = (self.state or 0) + 1
        total = sum(i + k + (6 if k % 3 == 0 else 2) for i, k in enumerate(self.ks))
        return {total * 1000 + self.state}


class Stored(Part):
    """A std::function that keeps its closure for good."""
    captures = ["c = 1", "c = 1, text = std::string(40, 'x')", "c = 1, d = 2L"]
    extras = ["", " + int(text.size())", " + int(d)"]
    values = [0, 40, 2]

    def __init__(self, *a):
        super().__init__(*a)
        self.shape = self.random.randrange(3)
        self.more = 0

    def edit(self):
        what = self.random.randrange(3)
        if what == 0:
            self.shape = self.random.randrange(3)
        elif what == 1:
            self.more = self.random.randrange(3)
        else:
            super().edit()

    def text(self):
        more = "".join(f"  if (x < 0) return [x] {{ return x + {i}; }}();\n" for i in range(self.more))
        return (f"static int part{self.n}() {{\n  int x = 3;\n{more}"
                f"  static std::function<int(int)> f = [{self.captures[self.shape]}](int x) "
                f"{{ return x * {self.k} + c{self.extras[self.shape]}; }};\n  return f(x);\n}}")

    def accept(self):
        code = (self.k, self.shape)
        if self.state is None:
            self.state = Held(code)
            self.made = self.shape
        self.state.now(code)

    def expect(self):
        return {3 * k + 1 + self.values[self.made] for k, shape in self.state.codes if shape == self.made}


class Template(Part):
    def text(self):
        return (f"template <class F> static int apply{self.n}(F f) {{ static int count = 0; ++count; return f(count > 0); }}\n"
                f"static int part{self.n}() {{ return apply{self.n}([](auto x) {{ return x * {self.k}; }}); }}")

    def expect(self):
        return {self.k}


class Sorted(Part):
    def text(self):
        mark = "<" if self.k % 2 else ">"
        return (f"static int part{self.n}() {{\n  std::vector<int> v = {{3, 1, {self.k + 5}}};\n"
                f"  std::sort(v.begin(), v.end(), [](int a, int b) {{ return a {mark} b; }});\n  return v[0] * 100 + v[2];\n}}")

    def expect(self):
        values = sorted([3, 1, self.k + 5], reverse=self.k % 2 == 0)
        return {values[0] * 100 + values[2]}


class Throws(Part):
    def text(self):
        return (f"struct Error{self.n} {{ int code; }};\n"
                f"static void thrower{self.n}(int x) {{ if (x) throw Error{self.n}{{{self.k}}}; }}\n"
                f"static int part{self.n}() {{\n  try {{ thrower{self.n}(1); return -1; }}\n"
                f"  catch (const Error{self.n}& e) {{ return e.code; }}\n}}")

    def expect(self):
        return {self.k}


class Coroutine(Part):
    """Goes on in the version that it began in."""

    def text(self):
        return (f"static Steps steps{self.n}() {{ for (int i = {self.k};; i += {self.k}) co_yield i; }}\n"
                f"static int part{self.n}() {{ static Steps s = steps{self.n}(); return s.next(); }}")

    def expect(self):
        if self.state is None:
            self.state, self.add = 0, self.k
        self.state += self.add
        return {self.state}


class PerThread(Part):
    total = [5]

    def text(self):
        return f"static int part{self.n}() {{ return per_thread += {self.k}; }}"

    def expect(self):
        PerThread.total[0] += self.k
        return {PerThread.total[0]}


class Virtual(Part):
    def text(self):
        return (f"struct Base{self.n} {{ virtual ~Base{self.n}() = default; virtual int value() = 0; }};\n"
                f"struct Derived{self.n} : Base{self.n} {{ int more = 1; int value() override {{ return ++more + {self.k}; }} }};\n"
                f"static int part{self.n}() {{\n"
                f"  static std::unique_ptr<Base{self.n}> p = std::make_unique<Derived{self.n}>();\n  return p->value();\n}}")

    def expect(self):
        self.state = (1 if self.state is None else self.state) + 1
        return {self.state + self.k}


class Member(Part):
    """A closure inside of an object, made where it is declared."""

    def __init__(self, *a):
        super().__init__(*a)
        self.more = 0

    def edit(self):
        if self.random.randrange(2):
            self.more = 1 - self.more
        else:
            super().edit()

    def text(self):
        return (f"struct Object{self.n} {{\n  int base = 100;\n"
                f"  std::function<int()> call = [this{', extra = std::string(50, char(97))' if self.more else ''}] "
                f"{{ return base + {self.k}{' + int(extra.size())' if self.more else ''}; }};\n}};\n"
                f"static int part{self.n}() {{ static Object{self.n} o; return o.call(); }}")

    def accept(self):
        if self.state is None:
            self.state, self.made = Held(self.k), self.more
        if self.made == self.more:
            self.state.now(self.k)

    def expect(self):
        return {100 + k + (50 if self.made else 0) for k in self.state.codes}


class Thread(Part):
    """A thread that was begun with a lambda, and runs on."""

    def text(self):
        return (f"static int work{self.n}() {{ return {self.k}; }}\n"
                f"static int part{self.n}() {{\n  struct Worker {{\n    int asked = 0, done = 0, value = 0;\n"
                f"    std::mutex mutex;\n    std::condition_variable changed;\n    bool ends = false;\n"
                f"    std::thread thread{{[this] {{\n      std::unique_lock lock(mutex);\n      while (!ends) {{\n"
                f"        changed.wait(lock, [this] {{ return ends || asked != done; }});\n"
                f"        value = work{self.n}();\n        done = asked;\n        changed.notify_all();\n      }}\n    }}}};\n"
                f"    ~Worker() {{\n      {{ std::lock_guard lock(mutex); ends = true; changed.notify_all(); }}\n"
                f"      thread.join();\n    }}\n  }};\n"
                f"  static Worker w;\n  std::unique_lock lock(w.mutex);\n  ++w.asked;\n  w.changed.notify_all();\n"
                f"  w.changed.wait(lock, [] {{ return w.asked == w.done; }});\n  return w.value;\n}}")

    def expect(self):
        return {self.k}


KINDS = [Plain, Counter, Inline, Dynamic, Lambdas, Lambdas, Stored, Stored, Template, Sorted, Throws, Coroutine, PerThread,
         Virtual, Member, Thread]


class Source:
    def __init__(self, folder, rng):
        self.folder, self.random = folder, rng
        self.numbers = 0
        self.parts = []
        for kind in dict.fromkeys(KINDS):
            self.add(kind)
        self.main = {"above": 0, "before": 0, "capture": 0, "factor": 10}
        self.step, self.held = Held(dict(self.main)), Held(dict(self.main))

    def add(self, kind):
        self.numbers += 1
        self.parts.insert(self.random.randrange(len(self.parts) + 1), kind(self.numbers, self.random))

    def parts_text(self, broken=""):
        text = PARTS_HEAD + "\n".join(part.text() for part in self.parts) + "\n" + broken
        calls = "".join(f'  std::printf("{part.n}=%d ", part{part.n}());\n' for part in self.parts)
        return text + f"void report() {{\n{calls}}}\n"

    def main_text(self):
        m = self.main
        return MAIN % {
            "above": "".join(f"[[maybe_unused]] static int above{i} = [] {{ return {i}; }}();\n" for i in range(m["above"])),
            "before": "".join(f"  auto other{i} = [](int x) {{ return x - {i}; }};\n  ticks += other{i}({i});\n"
                              for i in range(m["before"])),
            "capture": ["", ", more = 5", ", text = std::string(30, 'y')"][m["capture"]],
            "use": ["", " + more", " + int(text.size())"][m["capture"]], "factor": m["factor"]}

    def save(self, name, text):
        beside = self.folder / (name + "~")
        beside.write_text(text)
        os.replace(beside, self.folder / name)

    def save_all(self):
        (self.folder / "parts.h").write_text(HEADER.replace("#include <map>", "#include <condition_variable>\n#include <map>\n#include <mutex>"))
        self.save("parts.cpp", self.parts_text())
        self.save("main.cpp", self.main_text())

    def accept(self):
        for part in self.parts:
            part.accept()

    def edit_main(self):
        what = self.random.choice(["above", "before", "capture", "factor"])
        now = self.main[what]
        self.main[what] = self.random.randrange(3) if what != "factor" else self.random.randrange(1, 50)
        return self.main[what] != now

    def edit_parts(self):
        before = self.parts_text()
        for _ in range(self.random.randrange(1, 4)):
            what = self.random.randrange(10)
            if what == 0:
                self.add(self.random.choice(KINDS))
            elif what == 1 and len(self.parts) > 12:
                self.parts.pop(self.random.randrange(len(self.parts)))
            elif what == 2:
                self.random.shuffle(self.parts)
            else:
                self.random.choice(self.parts).edit()
        return self.parts_text() != before


BROKEN = [("int oops(;\n", "can't be compiled"), ("int nowhere(int); int oops() { return nowhere(1); }\n", "undefined symbol"),
          ("thread_local int another = 1; int oops() { return ++another; }\n", "thread-local"),
          ("static_assert(false);\n", "can't be compiled")]


class Stress(Terminal):
    def reported(self, *wanted):
        line = self.report()
        self.expect(r"\n")
        while line.startswith("warning:"):
            line = self.report()
        self.check(any(w in line for w in wanted), f"none of {wanted} in {line!r}")

    def tick(self, source):
        self.send("t\n")
        values = dict(word.split("=") for word in self.expect(r"(main=[^\r\n]*) end\r").group(1).split())
        self.ticks += 1
        first = source.step.codes[0]
        more = [0, 5, 30][first["capture"]]
        same = [m for m in source.step.codes if m["capture"] == first["capture"]]
        self.check(int(values.pop("main")) in {self.ticks * m["factor"] + 1 + more for m in same}, "main's lambda")
        self.check(int(values.pop("held")) in {7 * m["factor"] + more for m in same}, "main's std::function")
        self.check(set(values) == {str(part.n) for part in source.parts}, f"other parts: {values}")
        for part in source.parts:
            expected, value = part.expect(), int(values[str(part.n)])
            self.check(value in expected, f"part {part.n} ({type(part).__name__}) says {value}, not {expected}")


def edit(live, source):
    what = source.random.randrange(10)
    if what == 0:
        text, why = source.random.choice(BROKEN)
        source.save("parts.cpp", source.parts_text(text))
        live.reported(why)
        live.tick(source)
        source.save("parts.cpp", source.parts_text())
        live.reported("no change in the code")
    elif what <= 2:
        if not source.edit_main():
            return
        source.save("main.cpp", source.main_text())
        source.step.now(dict(source.main))
        live.reported("main.cpp: ")
    else:
        if not source.edit_parts():
            return
        source.save("parts.cpp", source.parts_text())
        live.reported("parts.cpp: ")
        source.accept()
    for _ in range(source.random.randrange(1, 4)):
        live.tick(source)


def main():
    tenon, folder, edits, seed = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = Source(folder, random.Random(seed))
    source.save_all()
    source.accept()
    command = [tenon, "live", "main.cpp", "parts.cpp", "-O", str(seed % 3), "--settle", "20", "-X", "-std=c++20"]
    with Stress(command, folder) as live:
        live.ticks = 0
        live.reported("watching")
        live.expect(r"ready\r")
        live.tick(source)
        for number in range(edits):
            live.doing = number
            edit(live, source)
        live.send("q\n")
        status, _ = live.end()
        live.check(status == 7, f"exit status {status}")
    print(f"{edits} edits, seed {seed}")


main()
