#!/usr/bin/env python3
"""Runs real programs, built by clang in the ordinary way and linked into a live process by `tenon run`, and compares what
they do.

Standard output, standard error and the exit status (or the signal) must agree, at -O0 and at -O2. The programs stand in
programs.toml. -O0 runs take the sources, which `tenon run` gives to clang; -O2 runs take bitcode that no pass has seen,
so that tenon-llvm's own pipeline does all of the work.

Usage: run_programs.py --tenon BIN --scratch DIR [--clang PATH] [--third-party DIR] [--jobs N] [--list] [NAME...]
"""
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_MODES = ["sources-O0", "bitcode-O2"]
TIMEOUT_S = 120


class Failure(Exception):
    pass


def library_folder():
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"):
        if (pathlib.Path(folder) / "libz.a").exists():
            return folder
    raise Failure("libz.a is nowhere (hint: apt-get install zlib1g-dev)")


def expand(text):
    return text.replace("{lib}", library_folder()).replace("{here}", str(HERE))


def run(command, input=None, **options):
    """What a command does. One that takes too long goes with all that it has started."""
    command = [str(part) for part in command]
    with subprocess.Popen(command, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(input, TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def build(command):
    result = run(command)
    if result.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}\n{result.stderr.decode(errors='replace')}")


def clang_for(clang, cxx):
    path = pathlib.Path(clang)
    return str(path.with_name(path.name.replace("clang", "clang++", 1))) if cxx else clang


class Program:
    def __init__(self, table, arguments):
        self.table = table
        self.arguments = arguments
        self.name = table["name"]
        self.scratch = pathlib.Path(arguments.scratch) / self.name
        self.flags = [expand(flag) for flag in table.get("flags", [])]
        self.libraries = ["-l" + name for name in table.get("libraries", [])]
        self.inputs = [expand(path) for path in table.get("inputs", [])]
        self.sources = [self.source(name) for name in table.get("sources", [])]
        if table.get("third_party"):
            self.flags.append(f"-I{self.third_party()}")

    def third_party(self):
        return pathlib.Path(self.arguments.third_party) / "sqlite3"

    def source(self, name):
        return HERE / name if (HERE / name).exists() else self.third_party() / name

    def missing(self):
        return [str(path) for path in self.sources if not path.exists()]

    @staticmethod
    def language(source):
        return ["-std=c++20"] if source.suffix == ".cpp" else []

    def clang(self, source):
        return [clang_for(self.arguments.clang, source.suffix == ".cpp"), *self.language(source), *self.flags]

    def object(self, source, compiler, *flags):
        output = self.scratch / (source.stem + "".join(f.replace("/", "_") for f in flags[:1]) + ".o")
        build([*compiler, *flags, "-c", source, "-o", output])
        return output

    def build_gnu(self):
        for name in self.table.get("gnu", []):
            source = self.source(name)
            compiler = ["g++" if source.suffix == ".cpp" else "gcc", *self.language(source), *self.flags]
            self.inputs.insert(0, self.object(source, compiler, "-O2", "-fPIC", *self.table.get("gnu_flags", [])))
        # In the order in which they are listed.
        count = len(self.table.get("gnu", []))
        self.inputs[:count] = reversed(self.inputs[:count])

    def build_shared(self):
        if shared := self.table.get("shared"):
            library = self.scratch / f"lib{self.name}.so"
            build([self.arguments.clang, "-shared", "-fPIC", "-O1", "-o", library, *(HERE / name for name in shared)])
            self.inputs.append(library)

    def build_native(self):
        objects = [self.object(source, self.clang(source), "-O0") for source in self.sources]
        output = self.scratch / "native"
        build([clang_for(self.arguments.clang, True), *objects, *self.inputs, *self.libraries,
               f"-Wl,-rpath,{self.scratch}", "-o", output])
        return output

    def bitcode(self):
        outputs = []
        for source in self.sources:
            output = self.scratch / (source.stem + ".bc")
            build([*self.clang(source), "-O2", "-Xclang", "-disable-llvm-passes", "-emit-llvm", "-fPIC", "-c", source,
                   "-o", output])
            outputs.append(output)
        return outputs

    def execute(self, command):
        environment = {**os.environ, "LC_ALL": "C", **self.table.get("environment", {})}
        result = run([*command, *map(expand, self.table.get("arguments", []))], env=environment, cwd=self.scratch,
                     input=self.table.get("stdin", "").encode())
        return {"exit status": result.returncode, "standard output": result.stdout, "standard error": result.stderr}

    def tenon(self, files, level, *options):
        flags = [f"--cflag={flag}" for flag in self.flags]
        sources = any(str(path).endswith((".c", ".cpp")) for path in files)
        if sources and any(str(path).endswith(".cpp") for path in files):
            flags.append("--cflag=-std=c++20")
        return [self.arguments.tenon, "run", f"-O{level}", *(flags if sources else []), *options, *files, *self.inputs,
                *self.libraries, "--"]

    def commands(self):
        modes = self.table.get("modes", DEFAULT_MODES) if self.sources else ["objects"]
        bitcode = self.bitcode() if any(mode.startswith("bitcode") for mode in modes) else []
        for mode in modes:
            files = {"sources": self.sources, "bitcode": bitcode, "objects": []}[mode.split("-")[0]]
            yield mode, self.tenon(files, mode[-1] if mode[-1].isdigit() else 2)
        if self.table.get("whole_archive"):
            yield "whole-archive", self.tenon(bitcode, 2, "--whole-archive")

    def check(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        if missing := self.missing():
            if os.environ.get("TENON_ALLOW_MISSING_SQLITE") == "1":
                return "skipped: TENON_ALLOW_MISSING_SQLITE is set"
            raise Failure(f"{' '.join(missing)} is missing (hint: cmake/fetch_sqlite.sh)")
        self.build_gnu()
        self.build_shared()
        expected = self.execute([self.build_native()])
        if len(expected["standard output"]) < self.table.get("min_output", 10):
            raise Failure(f"the native program prints too little: {expected}")
        differences, report = [], []
        for mode, command in self.commands():
            start = time.monotonic()
            actual = self.execute(command)
            report.append(f"{mode} {time.monotonic() - start:.2f} s")
            differences += [self.difference(mode, command, what, expected[what], actual[what])
                            for what in expected if expected[what] != actual[what]]
        if differences:
            raise Failure("\n".join(differences))
        return ", ".join(report)

    @staticmethod
    def difference(mode, command, what, expected, actual):
        text = f"{mode}: {what} differs\n  {' '.join(map(str, command))}\n"
        if not isinstance(expected, bytes):
            return text + f"  expected {expected}\n  actual   {actual}"
        wanted, got = expected.decode(errors="replace").split("\n"), actual.decode(errors="replace").split("\n")
        line = next((i for i, (a, b) in enumerate(zip(wanted, got)) if a != b), min(len(wanted), len(got)))
        return text + f"  line {line + 1}\n  expected {wanted[line:line + 3]}\n  actual   {got[line:line + 6]}"


class WholeArchive:
    """Everything in an archive links: as many modules as the archive has members, and no relocation fails."""

    def __init__(self, table, arguments):
        self.name = "archive_" + table["name"]
        self.path = pathlib.Path(expand(table["path"]))
        self.arguments = arguments

    def check(self):
        members = [name for name in run(["ar", "t", self.path]).stdout.decode().split("\n") if name]
        scratch = pathlib.Path(self.arguments.scratch) / self.name
        scratch.mkdir(parents=True, exist_ok=True)
        image, link_map = scratch / "image", scratch / "map"
        for file in (image, link_map):
            file.unlink(missing_ok=True)
        build([self.arguments.tenon, "link", "--whole-archive", "--allow-undefined", f"--map={link_map}", "-o", image, self.path])
        lines = link_map.read_text().split("\n")
        modules = lines[lines.index("MODULES") + 1:lines.index("")]
        if len(modules) != len(members) or not members:
            raise Failure(f"{self.path} has {len(members)} members, {len(modules)} were linked")
        if image.stat().st_size < 50000:
            raise Failure(f"only {image.stat().st_size} bytes were linked")
        return f"{len(modules)} modules, {image.stat().st_size} bytes"


def load(arguments):
    with open(HERE / "programs.toml", "rb") as file:
        tables = tomllib.load(file)
    checks = [Program(table, arguments) for table in tables["program"]]
    checks += [WholeArchive(table, arguments) for table in tables["archive"]]
    if unknown := set(arguments.names) - {check.name for check in checks}:
        sys.exit(f"run_programs: no program {' '.join(unknown)}")
    return [check for check in checks if not arguments.names or check.name in arguments.names]


def attempt(check):
    try:
        return True, check.check()
    except Failure as failure:
        return False, str(failure)
    except subprocess.TimeoutExpired as expired:
        return False, f"{' '.join(map(str, expired.cmd))}\n  ran for more than {expired.timeout:.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tenon", default="tenon")
    parser.add_argument("--scratch", default="/tmp/tenon_programs")
    parser.add_argument("--clang", default="clang-22")
    parser.add_argument("--third-party", default=HERE.parent.parent / "build" / "third_party")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    checks = load(arguments)
    if arguments.list:
        print("\n".join(check.name for check in checks))
        return 0
    arguments.tenon = shutil.which(arguments.tenon) or sys.exit(f"run_programs: there is no {arguments.tenon}")
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for check, (ok, text) in zip(checks, pool.map(attempt, checks)):
            print(f"{'passed' if ok else 'FAILED'} {check.name}: {text}", flush=True)
            failed += not ok
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
