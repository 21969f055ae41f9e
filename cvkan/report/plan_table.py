"""Tables of `cvkan plan`, `cvkan list` and `cvkan doctor`, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cvkan.catalogue import Entry
from cvkan.doctor import Check
from cvkan.orchestrator.ledger import FINAL
from cvkan.orchestrator.plan import Plan


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def render_plan(plan: Plan, held: Mapping[str, str]) -> RenderableType:
    """Arms with their solved widths and sizes, what is in the ledger, what was dropped, and the sum of it."""
    spec = plan.spec
    widths = any(arm.matched for arm in plan.arms)
    columns = ["arm", *(["width"] if widths else []), "parameters", "in ledger"]
    table = _table(*columns, right=("parameters", "in ledger"))
    done = Counter(trial.arm.id for trial in plan.trials if held.get(trial.key) in FINAL)
    for arm in plan.arms:
        width = [Text(f"{arm.matched.path.rsplit('.', 1)[-1]}={arm.matched.value}")] if arm.matched else [Text("")] if widths else []
        table.add_row(Text(arm.label), *width, f"{arm.n_params:,}", f"{done[arm.id]} of {len(spec.seeds)}")
    lines: list[RenderableType] = [Text(spec.folder, style="bold")]
    if spec.question:
        lines.append(Text(spec.question, style="italic"))
    lines.append(table)
    for dropped in plan.dropped:
        lines.append(Text(f"left out: {dropped.label}: {dropped.reason}", style="yellow"))
    todo = len(plan.trials) - done.total()
    lines.append(Text(f"{len(plan.arms)} arms x {len(spec.seeds)} seeds = {len(plan.trials)} trials; {todo} to train"))
    return Group(*lines)


def render_catalogue(entries: Sequence[Entry]) -> RenderableType:
    """Names with a line about each, a block for each kind."""
    blocks: list[RenderableType] = []
    for kind in dict.fromkeys(entry.kind for entry in entries):
        if blocks:
            blocks.append(Text(""))
        table = _table(kind, "")
        for entry in entries:
            if entry.kind == kind:
                table.add_row(Text(entry.name), Text(entry.about))
        blocks.append(table)
    return Group(*blocks) if blocks else Text("nothing found")


def render_checks(checks: Sequence[Check]) -> RenderableType:
    """A line for each check; what needs mending is marked."""
    table = _table("", "", "")
    table.show_header = False
    for check in checks:
        table.add_row(Text("ok" if check.well else "!!", style="green" if check.well else "bold red"), check.name, Text(check.seen))
    return table
