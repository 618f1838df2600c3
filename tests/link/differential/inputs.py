"""What the differential test links: generated C, the C and C++ of tests/programs, and the members of Debian's archives.

Each group is linked as a whole. Objects get unique section names first, since a linker script can't tell two sections
of one name in one file apart.
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import collections
import pathlib
import random
import shutil

import objects

PROGRAMS = pathlib.Path(__file__).resolve().parent.parent.parent / "programs"
LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu")

Group = collections.namedtuple("Group", "name paths pic jitlink")


def generate(seed, index, count, thread_local):
    """A C file with calls, data, jump tables, function pointers and strings, that refers to its `count` siblings."""
    rng = random.Random(seed * 1000 + index)
    other = [i for i in range(count) if i != index]
    lines = ["extern int outside(int, ...); extern int outside_data[]; extern char* outside_text;",
             "extern void weak_outside(void) __attribute__((weak));",
             f"static int local{index}[50] = {{1, 2, 3}}; int zero{index}[100];",
             f"static {'_Thread_local' if thread_local else ''} int tls{index} = {index};",
             f"__attribute__((visibility(\"hidden\"))) int hidden{index} = {rng.randrange(1 << 30)};",
             f"const char* const names{index}[] = {{\"one {index}\", \"two\", \"three {rng.random()}\"}};"]
    for i in other:
        lines.append(f"extern int data{i}; extern int zero{i}[]; int function{i}_0(int); int function{i}_1(int);"
                     f" extern int (*const table{i}[])(int);")
    lines.append(f"int data{index} = {rng.randrange(1 << 30)};")
    functions = 12
    for f in range(functions):
        lines.append(f"__attribute__((noinline)) {'static ' if f > 3 else ''}int function{index}_{f}(int x);")
    for f in range(functions):
        target = rng.choice(other)
        body = [f"x += function{target}_{rng.randrange(2)}(x) + data{target} + zero{target}[x & 7];",
                f"x ^= local{index}[x & 31] + outside_data[{rng.randrange(64)}] + hidden{index};",
                f"x += outside(x, \"text {rng.randrange(8)}\", {rng.random():.17g});",
                f"tls{index} += x; if (weak_outside) weak_outside();",
                f"x -= table{target}[x & 3](x) + names{index}[x & 1][0] + outside_text[x];",
                "switch (x & 15) {"
                + "".join(f" case {c}: x = outside(x + {rng.randrange(99)}, \"{c}\"); break;" for c in range(9))
                + " default: x++; }",
                f"local{index}[3] = x / 3.5 + {rng.random():.12g}f;",
                f"if (x > {rng.randrange(100)}) return function{index}_{rng.randrange(functions)}(x - 1);"]
        rng.shuffle(body)
        statements = " ".join(body[:rng.randrange(3, 8)])
        lines.append(f"{'static ' if f > 3 else ''}int function{index}_{f}(int x) {{ {statements} return x; }}")
    table = ", ".join(f"function{index}_{f}" for f in range(functions))
    lines.append(f"int (*const table{index}[])(int) = {{{table}}};")
    pointers = f"local{index} + 7, &data{index}, zero{index} + 99, outside_data + 3, &hidden{index}"
    lines.append(f"int* pointers{index}[] = {{{pointers}}};")
    return "\n".join(lines) + "\n"


class Maker:
    def __init__(self, arguments, run):
        self.arguments, self.run = arguments, run
        self.scratch = pathlib.Path(arguments.scratch)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.clang = arguments.clang
        self.clangxx = str(pathlib.Path(self.clang).with_name(pathlib.Path(self.clang).name.replace("clang", "clang++", 1)))

    def group(self, name, paths, pic, jitlink=False):
        for path in paths:
            path.write_bytes(objects.with_unique_names(path.read_bytes()))
        return Group(name, paths, pic, jitlink)

    def compile(self, name, sources, compilers, flags, pic, jitlink=False):
        folder = self.scratch / name
        folder.mkdir(parents=True)
        paths = []
        for i, source in enumerate(sources):
            compiler, extra = compilers[i % len(compilers)]
            output = folder / (source.stem + ".o")
            if source.suffix == ".cpp":
                compiler, extra = {self.clang: self.clangxx, "gcc": "g++"}[compiler], [*extra, "-std=c++20"]
            self.run([compiler, *extra, *flags, "-w", "-c", source, "-o", output])
            paths.append(output)
        return self.group(name, paths, pic, jitlink)

    def generated(self, seed, count, thread_local):
        folder = self.scratch / f"generated{seed}"
        folder.mkdir(parents=True)
        sources = [folder / f"file{i}.c" for i in range(count)]
        for i, source in enumerate(sources):
            source.write_text(generate(seed, i, count, thread_local))
        return sources

    def archive(self, name):
        folder = self.scratch / name
        folder.mkdir(parents=True)
        archive = LIBRARIES / name
        self.run(["ar", "x", "--output", folder, archive])
        return self.group(name, sorted(folder.glob("*.o")), True)


def make_groups(arguments, run):
    maker = Maker(arguments, run)
    wanted = lambda name: not arguments.groups or name in arguments.groups
    sources, plain = maker.generated(1, 12, True), maker.generated(2, 12, False)
    clang, gcc = (maker.clang, []), ("gcc", [])
    # Local-exec accesses, which code that is not PIC makes, are no use in a module.
    for level in ("-O0", "-O2"):
        for code, pic in (("-fPIC", True), ("-fno-pic", False)):
            for which, compilers in (("clang", [clang]), ("gcc", [gcc]), ("mixed", [clang, gcc])):
                name = f"generated{level}{code}-{which}"
                if wanted(name):
                    sectioned = ["-ffunction-sections", "-fdata-sections"] if which != "gcc" else []
                    yield maker.compile(name, sources if pic else plain, compilers, [level, code, *sectioned], pic)
        # llvm-jitlink knows one of the models of thread-local storage only.
        for which, compilers in (("clang", [clang]), ("gcc", [gcc])):
            if wanted(f"plain{level}-{which}"):
                yield maker.compile(f"plain{level}-{which}", plain, compilers, [level, "-fPIC"], True, True)
    # One module: lld's thread-local block is then laid out as ours.
    if wanted("single"):
        single = maker.scratch / "single.c"
        line = ("_Thread_local int v{0} = {0}; int get{0}(void) {{ return v{0}++; }}\n"
                "static _Thread_local char z{0}[{0} + 1]; char* s{0}(void) {{ return z{0}; }}\n")
        single.write_text("".join(line.format(i) for i in range(40)))
        yield maker.compile("single", [single], [gcc], ["-O2", "-fPIC"], True)
    if wanted("large"):
        yield maker.compile("large", plain, [clang, gcc], ["-O1", "-fno-pic", "-mcmodel=large"], False)
    cxx = sorted((PROGRAMS / "cxx").glob("*.cpp"))
    for level in ("-O0", "-O2"):
        for stem in ("modern", "regex", "iostreams", "polymorphism"):
            name = f"{stem}{level}"
            if wanted(name):
                yield maker.compile(name, [p for p in cxx if p.stem.startswith(stem)], [gcc if level == "-O2" else clang],
                                    [level, "-fPIC"], True, level == "-O2")
    for name in ("libz.a", "liblua5.4.a", "libzstd.a", "libsqlite3.a"):
        if wanted(name):
            yield maker.archive(name)
