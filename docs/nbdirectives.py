"""Read nbdev notebooks for MyST-NB: ``#|`` directives become the tags that MyST-NB knows.

Exported cells are folded, and followed by the entry of what they define, made from the source: no import.
Docstrings are markdown with Google's sections (Args, Returns, Raises), which become lists of parameters and errors.
"""

import ast
import re

import nbformat
from sphinx.ext.napoleon import Config, GoogleDocstring

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<arg>.*?)\s*$")
EXPORT = {"export", "exports", "exporti", "export_dcls"}
FRONT_MATTER = re.compile(r"\A---\n(?P<settings>.*?)\n---\n", re.DOTALL)
UNDERLINE = re.compile(r"^(?P<title>\S.*)\n[-=~]{3,}$", re.MULTILINE)
SECTIONS = Config(napoleon_use_param=True, napoleon_use_rtype=False, napoleon_use_ivar=True)
LONGEST_FENCE = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def split_directives(source: str) -> tuple[dict[str, str], str]:
    """Separate leading ``#| name arg`` lines from the code below them."""
    lines, found = source.splitlines(), {}
    while lines:
        directive = DIRECTIVE.match(lines[0])
        if directive is None:
            break
        found[directive["name"]] = directive["arg"].lower()
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")


def is_off(directives: dict[str, str], name: str) -> bool:
    """Say whether a directive is there with the value false."""
    return directives.get(name) == "false"


def tags_for(directives: dict[str, str], code: str) -> set[str]:
    """Name MyST-NB's tags for one cell's directives."""
    tags = set()
    if "hide" in directives or "exporti" in directives or is_off(directives, "include") or not code:
        tags.add("remove-cell")
    if "hide_input" in directives or is_off(directives, "echo"):
        tags.add("remove-input")
    if "hide_output" in directives or is_off(directives, "output"):
        tags.add("remove-output")
    exported = bool(EXPORT & directives.keys())
    if exported or directives.get("code-fold") in ("true", "show") or "collapse_input" in directives:
        tags.add("hide-input")
    return tags


def decorators(node: Definition) -> set[str]:
    """Name what decorates a definition."""
    return {ast.unparse(decorator) for decorator in node.decorator_list}


def patched_class(node: Definition) -> str | None:
    """Name the class that a function under ``@patch`` becomes a method of: its first parameter's."""
    if "patch" not in decorators(node) or not node.args.args:
        return None
    return ast.unparse(node.args.args[0].annotation)


def signature(node: Definition) -> str:
    """Write how `node` is called, as in its source, without `self`."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"{node.name}({bases})" if bases else node.name
    arguments = re.sub(r"^(self|cls)(: [\w.]+)?(, |$)", "", ast.unparse(node.args))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({arguments}){returns}"


def description(node: Definition) -> str:
    """Give a docstring as markdown, its sections as field lists that Sphinx knows."""
    text = UNDERLINE.sub(r"**\g<title>**\n", ast.get_docstring(node) or "")
    return str(GoogleDocstring(text, SECTIONS))


def method_kind(node: Function) -> str:
    """Name Sphinx's directive for a method."""
    names = decorators(node)
    if names & {"property", "cached_property", "functools.cached_property"}:
        return "property"
    return next((kind for kind in ("classmethod", "staticmethod") if kind in names), "method")


def is_public(node: Definition) -> bool:
    """Say whether a definition has an entry: a public name with a docstring."""
    return not node.name.startswith("_") and ast.get_docstring(node) is not None


def entry(node: Definition, kind: str, prefix: str, fence: str) -> str:
    """Write one definition with its docstring, and a class's public methods below it."""
    text = description(node)
    if isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, Function) and is_public(part)]
        parts = [entry(method, method_kind(method), "", fence[:-1]) for method in methods]
        text = "\n\n".join([text, *parts])
    head = node.name if kind == "property" else signature(node)
    return f"{fence}{{py:{kind}}} {prefix}{head}\n{text}\n{fence}"


def entry_of(module: str, node: Definition) -> str:
    """Write the entry of a definition that stands in a notebook's exported cell."""
    owner, fence = patched_class(node), ":" * LONGEST_FENCE
    if owner:
        return entry(node, "method", f"{module}.{owner}.", fence)
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    return entry(node, kind, f"{module}.", fence)


def api_cell(module: str, code: str) -> nbformat.NotebookNode | None:
    """Make a markdown cell with the entries of the public names that `code` defines; None where there are none."""
    nodes = [node for node in ast.parse(code).body if isinstance(node, Definition) and is_public(node)]
    if not nodes:
        return None
    return nbformat.v4.new_markdown_cell("\n\n".join(entry_of(module, node) for node in nodes))


def fence_front_matter(cell: nbformat.NotebookNode) -> None:
    """Show the front matter of a page that a cell gave as what it is; else its lines would be rules across the page."""
    for output in cell.outputs:
        page = output.get("data", {}).get("text/markdown")
        if page:
            output["data"]["text/markdown"] = FRONT_MATTER.sub("```yaml\n\\g<settings>\n```\n", page)


def read(text: str, package: str) -> nbformat.NotebookNode:
    """Read a notebook; the entry point for MyST-NB's ``nb_custom_formats``."""
    notebook = nbformat.reads(text, as_version=4)
    module, cells = None, []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        fence_front_matter(cell)
        directives, cell.source = split_directives(cell.source)
        if directives.get("default_exp"):
            module = f"{package}.{directives['default_exp']}"
        tags = tags_for(directives, cell.source)
        cell.metadata["tags"] = sorted(set(cell.metadata.get("tags", [])) | tags)
        if module and "export" in directives and "remove-cell" not in tags:
            api = api_cell(module, cell.source)
            cells += [api] if api else []
    notebook.cells = cells
    return notebook
