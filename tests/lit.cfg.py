"""lit's configuration: tests of what the command line shows, and of relocations, one file each.

A test is a file under tests/ that ends in .test or .s and holds RUN lines, which bash runs; files in folders called `inputs` are
not tests. The build writes lit.site.cfg.py (from cmake/lit.site.cfg.py.in), which says where its tools are.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import os
import shutil

import lit.formats

config.name = "tenon"
config.test_format = lit.formats.ShTest(execute_external=True)
config.suffixes = [".test", ".s"]
config.excludes = ["inputs", "house", "programs"]
config.test_source_root = os.path.join(config.tenon_source_dir, "tests")


def tool(name):
    """A tool of LLVM's: from the installation that the build uses, else by its versioned name from PATH."""
    path = os.path.join(config.llvm_bin, name)
    return path if os.access(path, os.X_OK) else shutil.which(name + "-22") or name


# FileCheck, not, split-file, llvm-ar and the rest by their plain names.
config.environment["PATH"] = os.pathsep.join([config.llvm_bin, config.environment.get("PATH", "/usr/bin:/bin")])
for variable in ("TMPDIR", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
    if variable in os.environ:
        config.environment[variable] = os.environ[variable]
# libLLVM and the programs that the tests run live until exit(): what they still hold then is no leak of ours to look for.
if "address" in config.tenon_sanitize:
    config.environment.setdefault("ASAN_OPTIONS", "detect_leaks=0")

sanitize = [word for word in config.tenon_sanitize.split(",") if word]
config.available_features |= {"sanitizer"} if sanitize else {"no-sanitizer"}

# Longer names first: lit replaces in this order, and %clang is the beginning of %clangxx.
config.substitutions += [
    ("%tenon", os.path.join(config.tenon_bin, "tenon")),
    ("%clangxx", config.clangxx if os.access(config.clangxx, os.X_OK) else tool("clang++")),
    ("%clang", config.clang if os.access(config.clang, os.X_OK) else tool("clang")),
    ("%llvm_mc", tool("llvm-mc") + " -triple=x86_64-linux-gnu -filetype=obj"),
    # %status N COMMAND...: passes if the command exits with exactly N.
    ("%status", "bash " + os.path.join(config.test_source_root, "tools", "inputs", "status.sh")),
]
