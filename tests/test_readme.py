"""README's own words, and those of the how-to pages that go on from it, run from top to bottom in one folder."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ccella

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FURTHER = ("own_exams", "studies")  # how-to pages that go on from README, in the same folder
WALK = "\n".join([README, *((ROOT / "docs" / "howto" / f"{name}.md").read_text(encoding="utf-8") for name in FURTHER)])
BLOCK = re.compile(r"^```(?P<language>sh|python)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
COMMENT = " " * 4 + "#"
# minutes to hours each, or in need of files: what they do is for other tests
BY_OTHERS = ("make ", "ccella fit-", "ccella train ", "ccella import folder ")
GRIDS = ("ccella ablate ", "ccella run ")  # hours each: planned, not run
HARMLESS = ("--dry-run", "--help")
MANY_EXAMS = "ccella generate --cohort "  # drawn in fewer steps than the generator's own ten
OF_THE_SHELL = re.compile(r"[$<>|&;]")


def blocks(language: str) -> list[str]:
    return [found["code"] for found in BLOCK.finditer(WALK) if found["language"] == language]


def quick(line: str) -> str:
    """A command without its comment; what would take hours is planned only, and what takes minutes is shortened."""
    command = line.partition(COMMENT)[0].strip()
    if command.startswith(MANY_EXAMS):
        return f"{command} --steps 2"
    is_grid = command.startswith(GRIDS) and not command.endswith(HARMLESS)
    return f"{command} --dry-run" if is_grid else command


def shell_lines(block: str) -> list[str]:
    """The commands of a block, but for those that other tests run."""
    lines = [quick(line) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(BY_OTHERS)]


def shell_blocks() -> list[list[str]]:
    """The commands of every block, in their order."""
    found = [shell_lines(block) for block in blocks("sh")]
    return [lines for lines in found if lines]


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def run_line(line: str, folder: Path) -> None:
    """Do what a line of a shell says, in the working folder; what needs no shell and calls ccella, in this process."""
    if not line.startswith("ccella ") or OF_THE_SHELL.search(line):
        return run(["bash", "-euxc", line], folder)
    _, *words = shlex.split(line)
    ended = ccella(*words)
    assert ended.code == 0, f"{line}\n{ended.out[-2000:]}{ended.err[-2000:]}"
    return None


def test_readme_has_both_kinds_of_lines():
    assert len(blocks("python")) >= 1
    assert sum(len(lines) for lines in shell_blocks()) >= 10


def test_the_command_is_spelt_in_one_way():
    assert "bin/ccella" not in README


def test_hours_are_planned_only():
    assert quick("ccella run runs/adapt --study adapt    # hours") == "ccella run runs/adapt --study adapt --dry-run"
    assert quick("ccella run augment --dry-run") == "ccella run augment --dry-run"
    assert quick("ccella check my_cohort    # quick") == "ccella check my_cohort"
    assert quick("ccella generate --cohort a --out b    # minutes") == "ccella generate --cohort a --out b --steps 2"


@pytest.mark.slow
def test_the_shell_lines_from_top_to_bottom(tmp_path, monkeypatch):
    """Nothing lies in the folder but what README's own lines make, and a study's exams, which take hours.

    That the command `ccella` is there and works in a process of its own is for tests/test_wheel.py.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "adapt").mkdir(parents=True)
    (tmp_path / "runs" / "adapt" / "synthetic0").symlink_to(tmp_path / "made_from_it")
    for line in itertools.chain(*shell_blocks()):
        run_line(line, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block(code, tmp_path):
    run([sys.executable, "-c", code], tmp_path)
