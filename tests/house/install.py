"""Installs a build to a fresh prefix, then builds and runs a program there that knows nothing but find_package(tenon).

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile


def run(*command: str) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {result.returncode}\n{result.stdout}")
    return result.stdout


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--cmake", required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--flags", default="")
    parser.add_argument("--consumer", required=True)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="tenon-install-") as scratch:
        prefix, build = pathlib.Path(scratch, "prefix"), pathlib.Path(scratch, "build")
        run(arguments.cmake, "--install", arguments.build, "--prefix", str(prefix))
        # Nothing of the build or source tree may leak into the package.
        for config in prefix.rglob("*.cmake"):
            if arguments.build in config.read_text():
                sys.exit(f"{config.name} mentions the build tree")
        run(arguments.cmake, "-S", arguments.consumer, "-B", str(build), "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}",
            f"-DCMAKE_CXX_COMPILER={arguments.compiler}", f"-DCMAKE_CXX_FLAGS={arguments.flags}")
        run(arguments.cmake, "--build", str(build))
        programs = [p for p in sorted(build.glob("consumer*")) if p.is_file() and os.access(p, os.X_OK)]
        if not programs:
            sys.exit("the consumer left no program")
        for program in programs:
            print(program.name, run(str(program)).strip())
        command = prefix / "bin" / "tenon"
        if command.exists():
            print(run(str(command), "--help").splitlines()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
