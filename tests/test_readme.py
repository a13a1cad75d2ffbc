"""README's own words, run: every line of Python and of the shell, in their order, in a folder of a newcomer's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?P<language>sh|python)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
BY_OTHERS = ("make demo", "make test")  # minutes each; this file is part of the second
DONE = ("make setup", "source .venv/bin/activate")  # without them this file would not run


def blocks(language: str) -> list[str]:
    return [found["code"] for found in BLOCK.finditer(README) if found["language"] == language]


def shell_lines() -> list[str]:
    """Commands, without their comments, and those that other tests run."""
    lines = [line.partition("    #")[0].strip() for code in blocks("sh") for line in code.splitlines()]
    return [line for line in lines if line and not line.startswith(BY_OTHERS + DONE)]


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """An empty folder."""
    return tmp_path_factory.mktemp("newcomer")


def test_readme_has_both_kinds_of_lines():
    assert len(blocks("python")) >= 1
    assert len(shell_lines()) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("line", shell_lines())
def test_a_shell_line(line, newcomer):
    run(["bash", "-euc", line], newcomer)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block(code, newcomer):
    run([sys.executable, "-c", code], newcomer)
