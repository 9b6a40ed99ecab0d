"""The table of docs/observability.md: what every panel returned in a real run.

`python -m tests.observability.table` renews it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.chaos.stage import make_cluster
from tests.observability.monitoring import ROOT, Panel
from tests.observability.run import Answer, a_run

PAGE: Final = ROOT / "docs" / "observability.md"
_BEGIN: Final = "<!-- python -m tests.observability.table writes this table -->\n"
_HEAD: Final = "| panel | query | series | a sample |\n| --- | --- | --- | --- |\n"


def queries_in(page: str) -> list[tuple[str, str]]:
    """Panel and query of each row that has a sample."""
    rows = [line.strip("|").split(" | ") for line in page.partition(_BEGIN)[2].removeprefix(_HEAD).splitlines()]
    return [(title.strip(), query) for title, query, series, sample in rows if int(series) > 0 and sample.strip()]


def shown(panel: Panel) -> tuple[str, str]:
    """Panel and query as the table has them. A pipe would end the cell."""
    return panel.title, f"`{panel.expr}`".replace("|", "\\|")


def written(page: str, answers: Sequence[Answer]) -> str:
    """The page with its table made of `answers`."""
    return page.partition(_BEGIN)[0] + _BEGIN + _HEAD + "".join(map(_row, answers))


def _row(answer: Answer) -> str:
    title, query = shown(answer.panel)
    sample = max(answer.series, key=lambda series: series.value)
    labels = ", ".join(f"{name} {value}" for name, value in sorted(sample.labels.items()) if name in _TOLD)
    return f"| {title} | {query} | {len(answer.series)} | {sample.value:.4g}{f' ({labels})' if labels else ''} |\n"


_TOLD: Final = ("code", "condition", "origin", "outcome", "provider", "reason", "result", "role", "route", "sqlstate",
                "status", "target", "task", "traffic", "which")  # fmt: skip


async def _main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        cluster = await make_cluster(folder / "cluster")
        async with a_run(folder / "run", cluster) as run:
            for _ in range(10):
                await run.round()
            answers = await run.until_every_panel_has_data()
    PAGE.write_text(written(PAGE.read_text(), answers))


if __name__ == "__main__":
    asyncio.run(_main())
