"""A table as CSV (raw numbers), Markdown (aligned), LaTeX (needs booktabs and graphicx) and HTML (a page of its own)."""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fgp.files import atomic
from fgp_workflow.paper import FIELDS, PrintedRow
from fgp_workflow.table_data import Block, Table

NONE = "—"
EMPTY = "No task of this kind in the configuration."
_PRINTED = (*FIELDS, "metric")
_TEXTS = 3
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"},
    **{"×": r"$\times$", "·": r"$\cdot$", "≤": r"$\le$", "≥": r"$\ge$", "–": "--", "±": r"$\pm$", "—": "---", "−": "$-$"},
    **{"Δ": r"$\Delta$", '"': "''", "[": "{[}", "]": "{]}"},
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 2px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }}
th {{ border-bottom: 2px solid #222; }}
th:nth-child(-n+{texts}), td:nth-child(-n+{texts}) {{ text-align: left; }}
ol, ul {{ max-width: 70em; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write(table: Table, folder: Path) -> None:
    """Write `table<N>.csv`, `.md`, `.tex` and `.html` into `folder`."""
    for suffix, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex), ("html", to_html)):
        with atomic(folder / f"table{table.number}.{suffix}") as aside:
            aside.write_text(text(table), newline="")


def to_csv(table: Table) -> str:
    """Return one line a table row: raw numbers, an empty field where there is none; printed values as printed."""
    if not table.blocks:
        return "table\n"
    records = pd.concat([_records(table, block) for block in table.blocks], ignore_index=True)
    return records.to_csv(index=False, lineterminator="\n")


def _records(table: Table, block: Block) -> pd.DataFrame:
    rows, counts = block.rows, block.numbers["after_percent", "count"]
    columns: dict[str, object] = {"table": table.number, **block.facts, "metric": block.metric}
    columns |= {name: [getattr(row, name) for row in rows] for name in ("budget", "method", "label", "selection")}
    columns |= {"seeds": counts.astype(int), "seeds_expected": [block.expected(i) for i in range(len(rows))]}
    numbers = list(dict.fromkeys(block.numbers.columns.get_level_values(0)))
    compared = [name for name in numbers if name.startswith("minus_")]
    columns |= _raw(block.numbers, [name for name in numbers if name not in compared])
    columns["best_at_equal_macs"] = block.best
    if any(row.printed for row in rows):
        columns["printed_method"] = [row.printed and row.printed.method for row in rows]
        for name in _PRINTED:
            columns[f"printed_{name}"] = [row.printed and row.printed.values.get(name) for row in rows]
        marks = [row.printed.marks if row.printed else {} for row in rows]
        columns["printed_marks"] = ["; ".join(f"{name}: {text}" for name, text in row.items()) for row in marks]
    footnotes = [[text for (row, _), texts in block.footnotes.items() if row == i for text in texts] for i in range(len(rows))]
    columns["notes"] = list(map("; ".join, footnotes))
    if table.remarks:
        columns["table_is"] = "; ".join(table.remarks)
    if any(seeds for each in table.blocks for seeds, _ in each.accepted):
        columns["seeds_accepted_code"] = [len(seeds) for seeds, _ in block.accepted]
        columns["accepted_commits"] = [commits for _, commits in block.accepted]
    return pd.DataFrame(columns | _raw(block.numbers, compared), index=range(len(rows)))


def _raw(numbers: pd.DataFrame, names: Iterable[str]) -> dict[str, pd.Series]:
    statistics = {"": "mean", "_sd": "std"}
    return {f"{name}{suffix}": numbers[name, statistic] for name in names for suffix, statistic in statistics.items()}


@dataclass(frozen=True)
class _Cell:
    """What a cell shows, and the footnotes that its marks point to."""

    text: str
    notes: tuple[str, ...] = ()
    bold: bool = False


class _Notes:
    """Numbers footnotes in the order of their first use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def to_markdown(table: Table) -> str:
    """Return the table as Markdown: one section a task, footnotes at the end."""
    notes = _Notes()
    parts = [f"# Table {table.number}: {table.heading}"]
    for block in table.blocks:
        shown = _written(_shown(table, block), notes, _markdown, "**{}**", " [{}]")
        aligned = ["left"] * _TEXTS + ["right"] * (shown.shape[1] - _TEXTS)
        parts += [f"## {block.title}", *([f"**{block.remark}**"] if block.remark else [])]
        parts.append(shown.to_markdown(index=False, disable_numparse=True, colalign=aligned))
    if not table.blocks:
        parts.append(EMPTY)
    if notes.texts:
        parts.append("\n".join(f"- [{i}] {_markdown(text)}" for i, text in enumerate(notes.texts, 1)))
    if table.notes:
        parts.append("\n".join(f"- {_markdown(text)}" for text in table.notes))
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    """Escape what Markdown would read as markup; a star or underscore that cannot open emphasis stays as it is."""
    return re.sub(r"\*(?=\S)|(?<!\w)_|[|\[\]<`\\]", r"\\\g<0>", text)


def to_latex(table: Table) -> str:
    """Return one `table*` a task, each with its footnotes; `\\usepackage{booktabs,graphicx}` is all it needs."""
    parts = [r"% needs \usepackage{booktabs,graphicx}"]
    for block in table.blocks:
        notes = _Notes()
        shown = _written(_shown(table, block), notes, latex, r"\textbf{{{}}}", r"\textsuperscript{{{}}}")
        below = [*(rf"\textsuperscript{{{i}}} {latex(text)}" for i, text in enumerate(notes.texts, 1)), *map(latex, block.notes)]
        remark = f" {latex(block.remark)}" if block.remark else ""
        parts += [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex(table.heading)}: {latex(block.title)}.{remark}}}",
            r"\resizebox{\textwidth}{!}{%",
            _tabular(shown, [row.budget for row in block.rows]) + "}",
            "",
            r"\begin{minipage}{\textwidth}\footnotesize",
            "\n\n".join(below),
            r"\end{minipage}",
            r"\end{table*}",
        ]
    if not table.blocks:
        parts.append(EMPTY)
    return "\n".join(parts) + "\n"


def _tabular(shown: pd.DataFrame, budgets: list[str]) -> str:
    """Return the `tabular`, with a rule where the budget changes."""
    columns = "l" * _TEXTS + "r" * (shown.shape[1] - _TEXTS)
    lines = shown.style.hide(axis="index").to_latex(hrules=True, column_format=columns).splitlines()
    first = lines.index(r"\midrule") + 1
    for i in range(len(budgets) - 1, 0, -1):
        if budgets[i] != budgets[i - 1]:
            lines.insert(first + i, r"\midrule")
    return "\n".join(lines)


def latex(text: str) -> str:
    """Escape text for LaTeX; small Greek letters become mathematics."""

    def one(character: str) -> str:
        greek = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(character, ""))
        letter = greek[1].lower().replace("lamda", "lambda") if greek else None
        return f"$\\{letter}$" if letter else _LATEX.get(character, character)

    return "".join(map(one, text))


def to_html(table: Table) -> str:
    """Return the table as a page of its own: one section a task, footnotes at the end, their marks linked to them."""
    notes, title = _Notes(), html.escape(f"Table {table.number}: {table.heading}")
    parts = [f"<h1>{title}</h1>"]
    for i, block in enumerate(table.blocks):
        mark = '<a href="#note{0}">{0}</a>'
        shown = _written(_shown(table, block), notes, html.escape, "<b>{}</b>", "<sup>{}</sup>", mark)
        style = shown.style.hide(axis="index").set_uuid(f"block{i}")
        parts += [
            f"<h2>{html.escape(block.title)}</h2>",
            *([f"<p><b>{html.escape(block.remark)}</b></p>"] if block.remark else []),
        ]
        parts.append(style.to_html(exclude_styles=True).strip())
    if not table.blocks:
        parts.append(f"<p>{EMPTY}</p>")
    footnotes = "\n".join(f'<li id="note{i}">{html.escape(text)}</li>' for i, text in enumerate(notes.texts, 1))
    parts += [f"<ol>\n{footnotes}\n</ol>"] if footnotes else []
    below = "\n".join(f"<li>{html.escape(text)}</li>" for text in table.notes)
    parts += [f"<ul>\n{below}\n</ul>"] if below else []
    return _PAGE.format(title=title, texts=_TEXTS, body="\n".join(parts))


def _written(
    shown: pd.DataFrame, notes: _Notes, escape: Callable[[str], str], bold: str, marks: str, mark: str = "{0}"
) -> pd.DataFrame:
    """Return the texts of a format: escaped, bold where due, with the numbers of the footnotes."""

    def text(cell: _Cell) -> str:
        written = escape(cell.text)
        if cell.bold:
            written = bold.format(written)
        numbers = [notes.number(note) for note in cell.notes]
        return written + marks.format(",".join(map(mark.format, numbers))) if numbers else written

    lines = [list(map(text, line)) for line in shown.itertuples(index=False)]
    return pd.DataFrame(lines, columns=list(map(escape, shown.columns)))


def _shown(table: Table, block: Block) -> pd.DataFrame:
    """Return the rows of a block as shown, each a `_Cell`; the first three columns are text, the rest numbers."""
    numbers, rows = block.numbers, block.rows
    share = "%" if table.percent == "remaining" else "% saved"

    def cells(texts: Iterable[str], column: str | None = None, bold: Iterable[bool] | None = None) -> list[_Cell]:
        marked = bold or [False] * len(rows)
        return [
            _Cell(text, block.footnotes.get((i, column), ()), best)
            for i, (text, best) in enumerate(zip(texts, marked, strict=True))
        ]

    shown = {
        "Budget": cells(row.budget or NONE for row in rows),
        "Method": cells((row.label for row in rows), "label"),
        "Selection": cells(row.way for row in rows),
        "n": cells(_seeds(block), "n"),
        f"MACs ({share})": cells(_costs(numbers, "macs", table.percent), "macs"),
        f"Params ({share})": cells(_costs(numbers, "params", table.percent)),
        f"{block.metric} before": cells(_points(numbers["before_percent"])),
        "after": cells(_points(numbers["after_percent"]), "after", block.best),
        "Δ dense": cells(_points(numbers["minus_dense_points"], "+"), "minus_dense_points"),
        "Δ FGP": cells(_points(numbers["minus_fgp_points"], "+"), "minus_fgp_points"),
    }
    for name, words in (("flops", "FLOPs"), ("params", "params")):
        if any(row.printed and name in row.printed.values for row in rows):
            shown[f"paper {words} ({share})"] = [_printed(row.printed, name, f"{name}_percent") for row in rows]
    if any(row.printed for row in rows):
        shown[f"paper {block.metric}"] = [_printed(row.printed, "metric") for row in rows]
    return pd.DataFrame(shown)


def _seeds(block: Block) -> Iterable[str]:
    for i, count in enumerate(block.numbers["after_percent", "count"].astype(int)):
        expected = block.expected(i)
        yield NONE if not expected else str(count) if count >= expected else f"{count} of {expected}"


def _printed(row: PrintedRow | None, name: str, percent: str | None = None) -> _Cell:
    """Return what the paper prints below `name`, with its share if there is one; footnotes say what contradicts other cells."""
    if row is None:
        return _Cell(NONE)
    share = row.values.get(percent)
    text = row.values.get(name, NONE) + (f" ({share} %)" if share else "")
    return _Cell(text, tuple(f"Printed: {row.marks[key]}." for key in (name, percent) if key in row.marks))


def _points(values: pd.DataFrame, sign: str = "") -> Iterable[str]:
    for mean, deviation in zip(values["mean"], values["std"], strict=True):
        spread = "" if pd.isna(deviation) else f" ± {deviation:.2f}"
        yield NONE if pd.isna(mean) else f"{mean:{sign}.2f}{spread}".replace("-", "−")


def _costs(numbers: pd.DataFrame, name: str, percent: str) -> Iterable[str]:
    remaining = numbers[f"{name}_remaining_percent"]
    for amount, mean, deviation in zip(numbers[name, "mean"], remaining["mean"], remaining["std"], strict=True):
        share = mean if percent == "remaining" else 100 - mean
        spread = f" ± {deviation:.2f}" if deviation >= 0.005 else ""
        yield NONE if pd.isna(amount) else f"{quantity(amount)} ({share:.2f}{spread} %)"


def quantity(amount: float) -> str:
    """Write a count with a decimal prefix: 74.16 M, 1.30 G, 61.5 k."""
    for unit, prefix, digits in ((1e9, "G", 2), (1e6, "M", 2), (1e3, "k", 1)):
        if amount >= unit:
            return f"{amount / unit:.{digits}f} {prefix}"
    return f"{amount:.0f}"
