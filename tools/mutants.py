"""Mutation testing of one file: small changes of the code that no test notices are claims that no test states.

    make mutants FILE=ovseg/pipeline/decide.py
    .venv/bin/python tools/mutants.py ovseg/concepts/cosegment.py --tests tests/concepts/test_cosegment.py

Runs in a copy of the checkout, so that an interrupted run leaves no changed file behind. Prints each mutant that
survived as a diff, and the share that did. The tests are those of the folder that mirrors the file's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CONFIG = """[cosmic-ray]
module-path = "{module}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:randomly {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def copy_checkout(folder: Path) -> None:
    """The files that git tracks, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)


def mirrored_tests(module: Path) -> str:
    """The folder of tests that mirrors a module of the package."""
    room = Path("tests", *module.parts[1:-1])
    return str(room if (ROOT / room).is_dir() and len(room.parts) > 1 else Path("tests"))


def main() -> None:
    """Mutate, run the tests on every mutant, and say which survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path, help="a file of ovseg/")
    parser.add_argument("--tests", help="instead of the folder that mirrors the file's")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run of the tests")
    given = parser.parse_args()
    if not (ROOT / given.module).is_file():
        parser.exit(2, f"error: expected a file of ovseg/, got '{given.module}'\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_checkout(folder)
        tests = given.tests or mirrored_tests(given.module)
        settings = {"module": given.module, "timeout": given.timeout, "python": sys.executable, "tests": tests}
        (folder / "mutants.toml").write_text(CONFIG.format(**settings))
        environment = {**os.environ, "PYTHONPATH": str(folder)}  # the copy, not the installed checkout
        for command in (
            ["cosmic-ray", "init", "mutants.toml", "mutants.sqlite"],
            ["cosmic-ray", "baseline", "mutants.toml"],
            ["cosmic-ray", "exec", "mutants.toml", "mutants.sqlite"],
            ["cr-report", "--surviving-only", "--show-diff", "mutants.sqlite"],
        ):
            subprocess.run([str(BIN / command[0]), *command[1:]], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
