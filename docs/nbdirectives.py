"""Read nbdev notebooks for MyST-NB: ``#|`` directives become the tags that MyST-NB knows.

Exported cells are folded, and followed by the entry of what they define, made from the source: no import, and docstrings are markdown.
"""
import ast
import re

import nbformat

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<arg>.*?)\s*$")
EXPORT = {"export", "exports", "exporti", "export_dcls"}
UNDERLINE = re.compile(r"^(?P<title>\S.*)\n[-=~]{3,}$", re.M)


def split_directives(source: str) -> tuple[dict[str, str], str]:
    """Separate leading ``#| name arg`` lines from the code below them."""
    lines, found = source.splitlines(), {}
    while lines and (m := DIRECTIVE.match(lines[0])):
        found[m["name"]] = m["arg"].lower()
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")


def tags_for(directives: dict[str, str], code: str) -> set[str]:
    """Name MyST-NB's tags for one cell's directives."""
    off = lambda name: directives.get(name) == "false"
    tags = set()
    if "hide" in directives or "exporti" in directives or off("include") or not code:
        tags.add("remove-cell")
    if "hide_input" in directives or off("echo"):
        tags.add("remove-input")
    if "hide_output" in directives or off("output"):
        tags.add("remove-output")
    if EXPORT & directives.keys() or directives.get("code-fold") in ("true", "show") or "collapse_input" in directives:
        tags.add("hide-input")
    return tags


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Write how `node` is called, as in its source, without `self`."""
    if isinstance(node, ast.ClassDef):
        return f"{node.name}({', '.join(ast.unparse(b) for b in node.bases)})" if node.bases else node.name
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    return f"{node.name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def entry(node, kind: str, prefix: str, fence: str) -> str:
    """Write one definition with its docstring, and a class's public methods below it."""
    text = UNDERLINE.sub(r"**\g<title>**\n", ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_") and ast.get_docstring(m)]
        for m in methods:
            names = {ast.unparse(d) for d in m.decorator_list}
            what = "property" if names & {"property", "cached_property"} else "classmethod" if "classmethod" in names else \
                "staticmethod" if "staticmethod" in names else "method"
            text += "\n\n" + entry(m, what, "", fence[:-1])
    head = prefix + (node.name if kind == "property" else signature(node))
    return f"{fence}{{py:{kind}}} {head}\n{text}\n{fence}"


def api_cell(module: str, code: str) -> nbformat.NotebookNode | None:
    """Make a markdown cell with the entries of the public names that `code` defines; None where there are none."""
    kinds = {ast.FunctionDef: "function", ast.AsyncFunctionDef: "function", ast.ClassDef: "class"}
    nodes = [n for n in ast.parse(code).body if type(n) in kinds and not n.name.startswith("_") and ast.get_docstring(n)]
    if nodes:
        return nbformat.v4.new_markdown_cell("\n\n".join(entry(n, kinds[type(n)], f"{module}.", ":" * 6) for n in nodes))


def read(text: str, package: str) -> nbformat.NotebookNode:
    """Read a notebook; the entry point for MyST-NB's ``nb_custom_formats``."""
    nb = nbformat.reads(text, as_version=4)
    module, cells = None, []
    for cell in nb.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        directives, code = split_directives(cell.source)
        if directives.get("default_exp"):
            module = f"{package}.{directives['default_exp']}"
        cell.source = code
        tags = tags_for(directives, code)
        cell.metadata["tags"] = sorted(set(cell.metadata.get("tags", [])) | tags)
        if module and "export" in directives and "remove-cell" not in tags and (api := api_cell(module, code)):
            cells.append(api)
    nb.cells = cells
    return nb
