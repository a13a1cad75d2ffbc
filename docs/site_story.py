"""How data goes through the rooms of a floor, drawn as boxes; and the stages, told with their parameters."""

from site_galleries import hidden_list, named_lines
from site_notebooks import ROOT, front_of, notebooks_of, parameters_of, rooms


def link(room: str) -> str:
    """Link a module's notebook.

    Raises:
        LookupError: there is no such module.
    """
    if room not in rooms():
        raise LookupError(f"flow: found no module '{room}', expected one of {', '.join(rooms())}")
    return f"[{room}](/{rooms()[room].relative_to(ROOT).as_posix()})"


def step(kind: str, text: str) -> str:
    """Write one box of a flow: data, or the rooms that data goes through with what they do."""
    if kind == "data":
        return f":::{{div}} flow-data\n{text}\n:::"
    names, _, does = text.partition(" | ")
    links = " · ".join(link(name.strip()) for name in names.split(","))
    return f":::{{div}} flow-room\n{links}\n\n{does}\n:::"


def flow(_: str, body: str) -> str:
    """Draw how data goes through rooms: `data: what it is` and `room: NAMES | what they do`, one after the other."""
    boxes = [step(kind, text) for kind, text in named_lines(body)]
    return "::::{div} flow\n" + "\n\n".join(boxes) + "\n::::\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a table of markdown."""
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells) + "\n"


def stages(folder: str, _: str = "") -> str:
    """Tell of each stage what it does and which parameters it takes."""
    parts = []
    for path in notebooks_of(folder):
        front = front_of(path)
        rows = [(f"`{name}`", f"`{kind}`", f"`{value}`", said) for name, kind, value, said in parameters_of(path)]
        told = f"## {front.title}\n\n{front.claim} [The notebook]({front.doc}.ipynb)\n"
        parts.append(f"{told}\n{table(('parameter', 'type', 'default', 'meaning'), rows)}")
    return "\n".join([*parts, hidden_list([front_of(path).doc for path in notebooks_of(folder)])])
