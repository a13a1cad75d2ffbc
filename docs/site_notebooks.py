"""What the pages say of a notebook, read from its file: its front, its module, its parameters."""

import ast
import base64
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
EXPORTS = re.compile(r"^#\s*\|\s*default_exp\s+(\S+)", re.MULTILINE)
COMMENT = re.compile(r"  # (?P<said>.+)$")
TYPED = re.compile(r"type: ?(?P<kind>\S+)\s+(?P<said>.+)")  # papermill's way to say a parameter's type


@dataclass(frozen=True)
class Front:
    """What an index says of a notebook: its title, its claim, and its largest saved picture."""

    path: Path
    title: str
    claim: str
    picture: bytes | None

    @property
    def doc(self) -> str:
        """The page's name for Sphinx."""
        return "/" + self.path.relative_to(ROOT).with_suffix("").as_posix()


@cache
def cells_of(path: Path) -> list:
    """Read a notebook's cells."""
    return nbformat.read(path, 4).cells


def first_paragraph(lines: list[str]) -> str:
    """Join the first lines of prose."""
    text = "\n".join(lines).strip()
    return " ".join(text.split("\n\n")[0].split())


def largest_picture(cells: list) -> bytes | None:
    """Give the largest PNG of all outputs: pictures of exams are larger than curves."""
    found = []
    for cell in cells:
        for output in cell.get("outputs", []):
            encoded = output.get("data", {}).get("image/png")
            found += [encoded] if encoded else []
    return base64.b64decode(max(found, key=len)) if found else None


@cache
def front_of(path: Path) -> Front:
    """Read a notebook's front: `# Title`, `> claim` (or the first paragraph), the largest picture."""
    cells = cells_of(path)
    lines = next(cell.source for cell in cells if cell.cell_type == "markdown").splitlines()
    claims = [line.lstrip("> ") for line in lines if line.startswith(">")]
    claim = " ".join(claims) or first_paragraph(lines[1:])
    return Front(path, lines[0].lstrip("# "), claim, largest_picture(cells))


def notebooks_of(folder: str) -> list[Path]:
    """List a folder's notebooks in their order."""
    return sorted((NBS / folder).glob("[!._]*.ipynb"))


@cache
def rooms() -> dict[str, Path]:
    """Find the notebook of each module, by the last part of its name."""
    found = {}
    for path in sorted(NBS.glob("[0-9]_*/**/[0-9]*.ipynb")):
        sources = "\n".join(cell.source for cell in cells_of(path) if cell.cell_type == "code")
        found[EXPORTS.search(sources)[1].rpartition(".")[2]] = path
    return found


def comment_at(lines: list[str], node: ast.stmt) -> str:
    """Give what a comment says of an assignment: at its end, or on the line above."""
    found = COMMENT.search(lines[node.end_lineno - 1])
    if found:
        return found["said"]
    above = lines[node.lineno - 2].strip() if node.lineno > 1 else ""
    return above.lstrip("# ") if above.startswith("#") else ""


def kind_of(node: ast.Assign | ast.AnnAssign) -> str:
    """Name a parameter's type: as it is annotated, else its default's."""
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.annotation)
    return type(ast.literal_eval(node.value)).__name__


def parameters_of(path: Path) -> list[tuple[str, str, str, str]]:
    """Read a stage's parameters: name, type, default, meaning."""
    source = next((c.source for c in cells_of(path) if "parameters" in c.metadata.get("tags", [])), "")
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        name = node.targets[0] if isinstance(node, ast.Assign) else node.target
        said, kind = comment_at(lines, node), kind_of(node)
        typed = TYPED.fullmatch(said)
        if typed:
            kind, said = typed["kind"], typed["said"]
        found.append((ast.unparse(name), kind, ast.unparse(node.value), said))
    return found
