"""A table as CSV (raw numbers), Markdown (aligned, readable as it stands) and LaTeX (needs booktabs and graphicx)."""

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fgp.files import atomic
from fgp_workflow.summary import Estimate
from fgp_workflow.tables import Block, Row, Table

NONE = "—"
_PRINTED = ("flops", "flops_percent", "params", "params_percent", "metric")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"},
    **{
        "×": r"$\times$",
        "·": r"$\cdot$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "–": "--",
        "±": r"$\pm$",
        "—": "---",
        "−": "$-$",
        "Δ": r"$\Delta$",
        '"': "''",
        "[": "{[}",
        "]": "{]}",
    },
}


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


def write(table: Table, folder: Path) -> None:
    """Write `table<N>.csv`, `.md` and `.tex` into `folder`."""
    for suffix, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        with atomic(folder / f"table{table.number}.{suffix}") as aside:
            aside.write_text(text(table), newline="")


def to_csv(table: Table) -> str:
    """Return one line a table row: raw numbers, an empty field where there is none; printed values as printed."""
    lines = [_record(table, block, row) for block in table.blocks for row in block.rows]
    columns = list(dict.fromkeys(["table", *(name for line in lines for name in line)]))
    buffer: list[str] = []
    writer = csv.DictWriter(_Lines(buffer), columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return "".join(buffer)


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _record(table: Table, block: Block, row: Row) -> dict[str, object]:
    record: dict[str, object] = {"table": table.number, **block.facts, "metric": block.metric, "budget": row.budget}
    record.update(method=row.method, label=row.label, selection=row.selection, seeds=row.n, seeds_expected=row.expected)
    for name, value in row.values.items():
        record[name] = value.mean if value else None
        record[f"{name}_sd"] = value.sd if value else None
    record["best_at_equal_macs"] = row.best
    if row.printed:
        record["printed_method"] = row.printed.method
        record.update({f"printed_{name}": row.printed.values.get(name) for name in _PRINTED})
        record["printed_marks"] = "; ".join(f"{name}: {text}" for name, text in row.printed.marks.items())
    record["notes"] = "; ".join(text for texts in row.notes.values() for text in texts)
    if table.incomplete:
        record["table_is"] = table.incomplete
    return record


def to_markdown(table: Table) -> str:
    """Return the table as Markdown: one section a task, footnotes at the end."""
    notes = _Notes()
    parts = [f"# Table {table.number}: {_title(table)}"]
    for block in table.blocks:
        parts.append(f"## {block.title}")
        if block.remark:
            parts.append(f"**{block.remark}**")
        parts.append(_markdown_grid(_grid(table, block), notes))
    if not table.blocks:
        parts.append("No task of this kind in the configuration.")
    if notes.texts:
        parts.append("\n".join(f"- [{i}] {_markdown(text)}" for i, text in enumerate(notes.texts, 1)))
    parts.append("\n".join(f"- {_markdown(text)}" for text in table.notes))
    return "\n\n".join(parts) + "\n"


def _title(table: Table) -> str:
    return f"{table.title} ({table.incomplete})" if table.incomplete else table.title


def _markdown_grid(grid: Sequence[Sequence[_Cell]], notes: _Notes) -> str:
    texts = [[_marked(cell, notes, _markdown, "**{}**", " [{}]") for cell in line] for line in grid]
    widths = [max(3, *(len(line[i]) for line in texts)) for i in range(len(texts[0]))]
    ruler = ["-" * width if i < 3 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [text.ljust(width) if i < 3 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in texts
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ruler, *lines[1:]])


def _markdown(text: str) -> str:
    """Escape what Markdown would read as markup; a star or underscore that cannot open emphasis stays as it is."""
    return re.sub(r"\*(?=\S)|(?<!\w)_|[|\[\]<`\\]", r"\\\g<0>", text)


def to_latex(table: Table) -> str:
    """Return one `table*` a task, each with its footnotes; `\\usepackage{booktabs,graphicx}` is all it needs."""
    parts = [r"% needs \usepackage{booktabs,graphicx}"]
    for block in table.blocks:
        notes = _Notes()
        grid = _grid(table, block)
        lines = [[_marked(cell, notes, latex, r"\textbf{{{}}}", r"\textsuperscript{{{}}}") for cell in line] for line in grid]
        below = [*(rf"\textsuperscript{{{i}}} {latex(text)}" for i, text in enumerate(notes.texts, 1)), *map(latex, table.notes)]
        remark = f" {latex(block.remark)}" if block.remark else ""
        parts += [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex(_title(table))}: {latex(block.title)}.{remark}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{lll{'r' * (len(lines[0]) - 3)}}}",
            r"\toprule",
            *_latex_lines(lines, [row.budget for row in block.rows]),
            r"\bottomrule",
            r"\end{tabular}}",
            "",
            r"\begin{minipage}{\textwidth}\footnotesize",
            "\n\n".join(below),
            r"\end{minipage}",
            r"\end{table*}",
        ]
    if not table.blocks:
        parts.append("No task of this kind in the configuration.")
    return "\n".join(parts) + "\n"


def _latex_lines(lines: Sequence[Sequence[str]], budgets: Sequence[str]) -> Iterable[str]:
    previous = None
    for line, budget in zip(lines, [None, *budgets], strict=True):
        if budget != previous:
            yield r"\midrule"
        previous = budget
        yield " & ".join(line) + r" \\"


def latex(text: str) -> str:
    """Escape text for LaTeX; small Greek letters become mathematics."""

    def one(character: str) -> str:
        greek = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(character, ""))
        letter = greek[1].lower().replace("lamda", "lambda") if greek else None
        return f"$\\{letter}$" if letter else _LATEX.get(character, character)

    return "".join(map(one, text))


def _marked(cell: _Cell, notes: _Notes, escape: Callable[[str], str], bold: str, mark: str) -> str:
    text = escape(cell.text)
    if cell.bold:
        text = bold.format(text)
    if cell.notes:
        text += mark.format(",".join(str(notes.number(note)) for note in cell.notes))
    return text


def _grid(table: Table, block: Block) -> list[list[_Cell]]:
    """Return the header and the rows of a block as shown; the first three columns are text, the rest numbers."""
    share = "%" if table.percent == "remaining" else "% saved"
    header = ["Budget", "Method", "Selection", "n", f"MACs ({share})", f"Params ({share})", f"{block.metric} before", "after"]
    header += ["Δ dense", "Δ FGP"]
    costs = [name for name in ("flops", "params") if any(row.printed and name in row.printed.values for row in block.rows)]
    header += [f"paper {'FLOPs' if name == 'flops' else name} ({share})" for name in costs]
    header += [f"paper {block.metric}"] * any(row.printed for row in block.rows)
    return [
        [_Cell(text) for text in header],
        *([*_ours(row, table.percent), *_theirs(row, costs, len(header) - 10)] for row in block.rows),
    ]


def _ours(row: Row, percent: str) -> Iterable[_Cell]:
    value = row.values.get
    seeds = NONE if not row.method else str(row.n) if row.n >= row.expected else f"{row.n} of {row.expected}"
    yield _Cell(row.budget or NONE)
    yield _Cell(row.label, row.notes.get("label", ()))
    yield _Cell(row.way)
    yield _Cell(seeds, row.notes.get("n", ()))
    yield _Cell(_cost(value("macs"), value("macs_remaining_percent"), percent), row.notes.get("macs", ()))
    yield _Cell(_cost(value("params"), value("params_remaining_percent"), percent))
    yield _Cell(_points(value("before_percent")))
    yield _Cell(_points(value("after_percent")), row.notes.get("after", ()), row.best)
    for name in ("minus_dense_points", "minus_fgp_points"):
        yield _Cell(_points(value(name), "+"), row.notes.get(name, ()))


def _theirs(row: Row, costs: Sequence[str], columns: int) -> Iterable[_Cell]:
    if not row.printed:
        yield from [_Cell(NONE)] * columns
        return
    values, marks = row.printed.values, row.printed.marks
    for name in costs:
        share = values.get(f"{name}_percent")
        text = values.get(name, NONE) + (f" ({share} %)" if share else "")
        yield _Cell(text, tuple(f"Printed: {marks[key]}." for key in (name, f"{name}_percent") if key in marks))
    yield _Cell(values["metric"], (f"Printed: {marks['metric']}.",) if "metric" in marks else ())


def _points(value: Estimate | None, sign: str = "") -> str:
    if value is None:
        return NONE
    spread = "" if value.sd is None else f" ± {value.sd:.2f}"
    return f"{value.mean:{sign}.2f}{spread}".replace("-", "−")


def _cost(amount: Estimate | None, remaining: Estimate | None, percent: str) -> str:
    if amount is None or remaining is None:
        return NONE
    share = remaining.mean if percent == "remaining" else 100 - remaining.mean
    spread = f" ± {remaining.sd:.2f}" if remaining.sd and remaining.sd >= 0.005 else ""
    return f"{quantity(amount.mean)} ({share:.2f}{spread} %)"


def quantity(amount: float) -> str:
    """Write a count with a decimal prefix: 74.16 M, 1.30 G, 61.5 k."""
    for unit, prefix, digits in ((1e9, "G", 2), (1e6, "M", 2), (1e3, "k", 1)):
        if amount >= unit:
            return f"{amount / unit:.{digits}f} {prefix}"
    return f"{amount:.0f}"
