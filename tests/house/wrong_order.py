"""Proves that a wrong order of stages does not compile, nor a Result that nobody looks at.

Each wrong line stands in a function of its own, all of them in one file, which each compiler reads once: every such line must
get an error of the expected kind, no other line may get any. The same file without them, in which every stage takes its right
step in each of its forms, must compile without a warning: otherwise anything could be the reason for the errors.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

FLAGS = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-fdiagnostics-color=never"]

RIGHT = """\
#include <tenon/change.h>
#include <utility>
using namespace tenon;

Result<Committed> in_order(Change change) {
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  if (Result<void> edited = draft->edit({}); !edited) return std::move(edited).error();
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  return std::move(*linked).commit();
}
Result<Placed> in_memory(Draft draft, Memory& memory) { return std::move(draft).place(memory); }
Result<Placed> at(Draft draft, std::span<const Addr> at) { return std::move(draft).place(Granularity::whole, at); }
Result<Linked> inspected(Placed placed, const Inspector& inspector) { return std::move(placed).link(inspector); }
Result<Code> released(Linked linked) { return std::move(linked).release(); }
Result<void> copied_out(const Linked& linked) { return linked.copy_out({}); }
Linked moved(Linked linked) { return linked; }
void taken(Draft& draft, Draft&& other) { draft = std::move(other); }
"""

# What the compilers say: GCC's words, clang's words.
NO_MEMBER = r"has no member named|no member named"
NEEDS_RVALUE = r"discards qualifiers|'this' argument .* is an lvalue|is not marked const|no matching member function"
DELETED = r"use of deleted function|uses deleted function|is implicitly deleted"
IGNORED = r"ignoring return(ed)? value"
NO_CONVERSION = r"no match for call|no matching function"

# Title, parameter, statement, what the error must say.
WRONG = [
    ("a change is not placed", "Change s", "return std::move(s).place();", NO_MEMBER),
    ("a change is not linked", "Change s", "return std::move(s).link();", NO_MEMBER),
    ("a change is not committed", "Change s", "return std::move(s).commit();", NO_MEMBER),
    ("a draft is not drafted again", "Draft s", "return std::move(s).draft();", NO_MEMBER),
    ("a draft is not linked", "Draft s", "return std::move(s).link();", NO_MEMBER),
    ("a draft is not committed", "Draft s", "return std::move(s).commit();", NO_MEMBER),
    ("a placed change is not edited", "Placed s", "return s.edit({});", NO_MEMBER),
    ("a placed change is not placed again", "Placed s", "return std::move(s).place();", NO_MEMBER),
    ("a placed change is not committed", "Placed s", "return std::move(s).commit();", NO_MEMBER),
    ("a placed change is not released", "Placed s", "return std::move(s).release();", NO_MEMBER),
    ("a placed change has no bytes", "Placed s", "return s.bytes({});", NO_MEMBER),
    ("a placed change is not copied out", "Placed s", "return s.copy_out({});", NO_MEMBER),
    ("a linked change takes no module", "Linked s", "s.remove(*static_cast<Module*>(nullptr));", NO_MEMBER),
    ("a linked change is not linked again", "Linked s", "return std::move(s).link();", NO_MEMBER),
    ("a committed change is not committed again", "Committed s", "return std::move(s).commit();", NO_MEMBER),
    ("draft() consumes", "Change s", "return s.draft();", NEEDS_RVALUE),
    ("place() consumes", "Draft s", "return s.place();", NEEDS_RVALUE),
    ("place(Memory&) consumes", "Draft s", "return s.place(*static_cast<Memory*>(nullptr));", NEEDS_RVALUE),
    ("place() at addresses consumes", "Draft s", "return s.place(Granularity::whole, {});", NEEDS_RVALUE),
    ("link() consumes", "Placed s", "return s.link();", NEEDS_RVALUE),
    ("commit() consumes", "Linked s", "return s.commit();", NEEDS_RVALUE),
    ("release() consumes", "Linked s", "return s.release();", NEEDS_RVALUE),
    ("commit() consumes what an inspector sees", "const Linked& s", "return std::move(s).commit();", NEEDS_RVALUE),
    ("a change is not copied", "Change& s", "return Change(s);", DELETED),
    ("a draft is not copied", "Draft& s", "return Draft(s);", DELETED),
    ("a placed change is not copied", "Placed& s", "return Placed(s);", DELETED),
    ("a linked change is not copied", "Linked& s", "return Linked(s);", DELETED),
    ("a linked change is not assigned a copy", "Linked& s", "Linked& t = s; t = s;", DELETED),
    ("a change is no draft", "Change s", "[](Draft) {}(std::move(s));", NO_CONVERSION),
    ("a draft is no placed change", "Draft s", "[](Placed) {}(std::move(s));", NO_CONVERSION),
    ("a placed change is no linked one", "Placed s", "[](Linked) {}(std::move(s));", NO_CONVERSION),
    ("a draft's fault is not ignored", "Change s", "std::move(s).draft();", IGNORED),
    ("an edit's fault is not ignored", "Draft s", "s.edit({});", IGNORED),
    ("a placement's fault is not ignored", "Draft s", "std::move(s).place();", IGNORED),
    ("a link's fault is not ignored", "Placed s", "std::move(s).link();", IGNORED),
    ("a commit's fault is not ignored", "Linked s", "std::move(s).commit();", IGNORED),
    ("a release's fault is not ignored", "Linked s", "std::move(s).release();", IGNORED),
    ("a copy's fault is not ignored", "Linked s", "s.copy_out({});", IGNORED),
]


def program(wrong) -> str:
    lines = [f"auto wrong_{i}({parameter}) {{ {statement} }}" for i, (_, parameter, statement, _) in enumerate(wrong)]
    return RIGHT + "\n".join(lines) + "\n"


def errors(compiler: str, include: str, text: str):
    """Whether it compiles, the errors in the file itself by line, and everything that the compiler said."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "order.cpp"
        source.write_text(text)
        unlimited = "-ferror-limit=0" if "clang" in compiler else "-fmax-errors=0"
        result = subprocess.run([compiler, *FLAGS, unlimited, "-I", include, str(source)], capture_output=True, text=True,
                                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    by_line = {}
    for match in re.finditer(r"^([^\s:][^:\n]*):(\d+):\d+: (?:fatal )?error: (.*)$", result.stderr, re.M):
        line = int(match.group(2)) if match.group(1) == str(source) else 0
        by_line.setdefault(line, []).append(match.group(3))
    return result.returncode == 0, by_line, result.stderr


def check(compiler: str, include: str):
    compiles, _, said = errors(compiler, include, program([]))
    if not compiles:
        yield f"{compiler}: the right order does not compile:\n{said}"
        return
    compiles, by_line, said = errors(compiler, include, program(WRONG))
    if compiles:
        yield f"{compiler}: all that is wrong compiles"
    first = RIGHT.count("\n") + 1
    for line, (title, _, statement, expected) in enumerate(WRONG, first):
        found = by_line.pop(line, [])
        if not found:
            yield f"{compiler}: {title}: `{statement}` compiles"
        elif not any(re.search(expected, error) for error in found):
            yield f"{compiler}: {title}: `{statement}` is refused for another reason: {'; '.join(found)}"
    for line, found in by_line.items():
        where = f"line {line}" if line else "a header"
        yield f"{compiler}: an error in {where}, where nothing is wrong: {'; '.join(found)}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--include", required=True)
    parser.add_argument("compilers", nargs="+")
    arguments = parser.parse_args()

    faults = [fault for compiler in arguments.compilers for fault in check(compiler, arguments.include)]
    print("\n".join(faults) or f"{len(WRONG)} wrong programs are refused by {' and '.join(arguments.compilers)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
