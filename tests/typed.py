"""Numbers in prose: which were typed by hand, and what of a page is prose."""

import re
from decimal import Decimal

from site_figures import SMALL, in_digits

CODE = re.compile(r"^```(?!\{fill\}).*?^```|`[^`\n]+`|^:[^\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\([^)]*\)")
TABLE = re.compile(r"^\|[^\n]*$", re.MULTILINE)
MEASURED = "cores|exams|hours|minutes|readers|reports|seeds|steps|trainings"
COUNTED = re.compile(rf"\b(?:{'|'.join(SMALL[2:])})\s(?:[\w-]+\s)?(?:{MEASURED})\b", re.IGNORECASE)
TYPED = re.compile(rf"\d+[.,]\d+|\d\d+|\d+\s?%|\b\d\s(?:[\w-]+\s)?(?:{MEASURED})\b|{COUNTED.pattern}", re.IGNORECASE)
PRECISE = re.compile(r"(?<![\w.,:×-])(?P<digits>\d+\.\d+)(?P<percent>\s?%)?(?![\w×]| M\b)|(?P<whole>\d+)\s?%")

INTERVAL = re.compile(r"(?P<value>\d+\.\d+)\s\[[+−-]?(?P<low>\d+\.\d+),\s[+−-]?(?P<high>\d+\.\d+)\]")


def without(prose: str, no_figures: tuple[str, ...]) -> str:
    """Leave words out that hold a number but no figure."""
    for words in no_figures:
        prose = prose.replace(words, "")
    return prose


def prose_of(page: str) -> str:
    """A page without its code and without where its links lead."""
    return LINK.sub("]", CODE.sub("", page))


def is_rounded(digits: str, number: float) -> bool:
    """Say whether digits are a number's, rounded to as many; signs apart, which prose says in words."""
    places = len(digits.partition(".")[2])
    return digits == in_digits(abs(number), f".{places}f")


def is_interval(found: re.Match, figures: dict) -> bool:
    """Say whether a value with its interval is one figure's, all three; "lower by" turns sign and ends around."""
    said = [found["value"], found["low"], found["high"]]
    estimates = [figure for figure in figures.values() if isinstance(figure, dict)]
    for one in estimates:
        ends = (one["low"], one["high"]) if one["value"] >= 0 or "−" in found[0] else (one["high"], one["low"])
        if all(map(is_rounded, said, (one["value"], *ends))):
            return True
    return False


def is_figure(found: re.Match, figures: dict) -> bool:
    """Say whether a decimal or a percentage is a figure's; the ends of an interval are none for themselves."""
    digits = found["whole"] or found["digits"]
    scale = 100 if found["whole"] or found["percent"] else 1
    ends = (".low", ".high")
    values = [one for key, one in figures.items() if type(one) in (int, float) and not key.endswith(ends)]
    return any(is_rounded(digits, float(Decimal(str(value)) * scale)) for value in values)


def strangers(prose: str, figures: dict) -> list[str]:
    """The intervals, decimals and percentages of prose that are none of the figures, which are given by name."""
    wrong = [found[0] for found in INTERVAL.finditer(prose) if not is_interval(found, figures)]
    rest = INTERVAL.sub("", prose)
    return wrong + [found[0] for found in PRECISE.finditer(rest) if not is_figure(found, figures)]
