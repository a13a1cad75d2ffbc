"""Reference pages made of the code: modules and their names, commands and their help, recipes and their keys."""

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import takewhile
from unittest.mock import patch

import nbdirectives
from site_notebooks import ROOT, cells_of, comment_at, front_of, rooms
from site_story import table

HELP_COLUMNS = 78
FLOOR_TITLES = {
    "0_ground": "0 · Ground",
    "1_exams": "1 · Exams",
    "2_organs": "2 · Organs: the prostate",
    "3_models": "3 · Models",
    "4_generators": "4 · Generators",
    "5_measures": "5 · Measures",
    "6_studies": "6 · Studies",
    "7_cli": "7 · Command line",
}


def first_line(node: nbdirectives.Definition) -> str:
    """Give a docstring's summary."""
    return ast.get_docstring(node).splitlines()[0]


def entries_of(path, package: str = "ccella") -> Iterator[tuple[str, str, str]]:
    """Give a notebook's public names: Sphinx's role, full name, summary."""
    module = package
    for cell in cells_of(path):
        if cell.cell_type != "code":
            continue
        directives, code = nbdirectives.split_directives(cell.source)
        if directives.get("default_exp"):
            module = f"{package}.{directives['default_exp']}"
        hidden = "remove-cell" in nbdirectives.tags_for(directives, code)
        if "export" not in directives or hidden:
            continue
        for node in ast.parse(code).body:
            if isinstance(node, nbdirectives.Definition) and nbdirectives.is_public(node):
                yield entry(module, node)


def entry(module: str, node: nbdirectives.Definition) -> tuple[str, str, str]:
    """Name a definition as nbdirectives does."""
    owner = nbdirectives.patched_class(node)
    if owner:
        return "meth", f"{module}.{owner}.{node.name}", first_line(node)
    role = "class" if isinstance(node, ast.ClassDef) else "func"
    return role, f"{module}.{node.name}", first_line(node)


def reference(role: str, name: str) -> str:
    """Link an entry under its short name."""
    return f"{{py:{role}}}`~{name}`"


def modules(_: str = "", __: str = "") -> str:
    """List every module with its public names, floor by floor."""
    parts, floor = [], ""
    for path in rooms().values():
        if path.relative_to(ROOT / "nbs").parts[0] != floor:
            floor = path.relative_to(ROOT / "nbs").parts[0]
            parts.append(f"## {FLOOR_TITLES[floor]}\n")
        entries = list(entries_of(path))
        if not entries:
            continue
        front, rows = front_of(path), [(reference(role, name), said) for role, name, said in entries]
        module = re.sub(r"\.\w+$", "", entries[0][1]) if entries[0][0] != "meth" else entries[0][1].rsplit(".", 2)[0]
        parts.append(f"### `{module}`\n\n[{front.title}]({front.doc}.ipynb). {front.claim}\n")
        parts.append(table(("name", "what it is"), rows))
    return "\n".join(parts)


def face(_: str = "", __: str = "") -> str:
    """List what `import ccella` offers by name."""
    import ccella

    every = {name: (role, said) for path in rooms().values() for role, name, said in entries_of(path)}
    rows = []
    for full in ccella._FACE:
        role, said = every[full]
        rows.append((reference(role, full), said))
    return table(("`ccella.` …", "what it is"), rows)


def help_of(words: list[str]) -> str:
    """Give what `ccella … --help` prints."""
    from typer import rich_utils
    from typer.testing import CliRunner

    from ccella.cli import app

    with patch.object(rich_utils, "MAX_WIDTH", HELP_COLUMNS):
        said = CliRunner().invoke(app, [*words, "--help"], prog_name="ccella", env={"NO_COLOR": "1"}).output
    return "\n".join(line.rstrip() for line in said.strip().splitlines())


def commands_below(group, words: list[str]) -> Iterator[list[str]]:
    """Name every command of a group by its words, in the order of the help page."""
    for name, command in group.commands.items():
        yield [*words, name]
        if hasattr(command, "commands"):
            yield from commands_below(command, [*words, name])


def commands(_: str = "", __: str = "") -> str:
    """Write the help page of every command."""
    import typer

    from ccella.cli import app

    parts = []
    for words in [[], *commands_below(typer.main.get_command(app), [])]:
        parts.append(f"## `{' '.join(['ccella', *words])}`\n\n```text\n{help_of(words)}\n```\n")
    return "\n".join(parts)


def fields_of(config: type) -> dict[str, str]:
    """Say what each key of a piece of a recipe means: the comment beside it in the code."""
    lines = inspect.getsource(config).splitlines()
    nodes = ast.parse("\n".join(lines)).body[0].body
    return {node.target.id: comment_at(lines, node) for node in nodes if isinstance(node, ast.AnnAssign)}


def shown(value: object) -> str:
    """Write a default as YAML has it."""
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).replace("\n...", "").strip()


def default_of(field) -> str:
    """Write a key's default; a dash where it has none."""
    return "–" if field.is_required() else f"`{shown(field.default)}`"


def choices_of(field) -> str:
    """Name the words that a key may hold, where they are listed."""
    words = re.findall(r"Literal\[([^\]]*)\]", str(field.annotation))
    return "" if not words or str(field.annotation).startswith("dict") else f" ({words[0].replace(chr(39), '`')})"


def key_table(config: type) -> str:
    """List the keys of one piece of a recipe, but for pieces of their own."""
    from ccella.recipe import Config

    said, rows = fields_of(config), []
    for key, field in config.model_fields.items():
        if isinstance(field.default, Config) or field.exclude:
            continue
        rows.append((f"`{key}`", default_of(field), said[key] + choices_of(field)))
    return table(("key", "default", "meaning"), rows)


def pieces_of(config: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Give the pieces of a recipe by dotted key."""
    from ccella.recipe import Config

    for key, field in config.model_fields.items():
        if isinstance(field.default, Config):
            kind = type(field.default)
            yield f"{prefix}{key}", kind
            yield from pieces_of(kind, f"{prefix}{key}.")


def recipe_keys(_: str = "", __: str = "") -> str:
    """List every key of a recipe with its default and its meaning."""
    from ccella.recipe import Recipe, SequenceRule

    parts = ["## At the top\n", key_table(Recipe)]
    parts += ["## Each of `sequences`\n", inspect.getdoc(SequenceRule) + "\n", key_table(SequenceRule)]
    for key, config in pieces_of(Recipe):
        parts += [f"## `{key}`\n", inspect.getdoc(config) + "\n", key_table(config)]
    return "\n".join(parts)


def recipes(_: str = "", __: str = "") -> str:
    """List the recipes that ship: name, parent, and what the file says at its head."""
    from ccella.recipe import RECIPES, list_recipes

    rows = []
    for name in list_recipes():
        lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        parent = next((line.split()[1] for line in lines if line.startswith("parent:")), "")
        head = takewhile(lambda line: line.startswith("#"), lines)
        said = " ".join(line.lstrip("# ") for line in head)
        rows.append((f"`{name}`", f"`{parent}`" if parent else "", said))
    return table(("recipe", "parent", "what it is"), rows)
