"""What the benchmarks share: their `--json`, whose last line is `{"name": ..., "figures": ..., "ratios": ...}`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes; each adds its own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="one line of JSON at the end")
    return made


def report(
    options: argparse.Namespace,
    name: str,
    figures: Mapping[str, float | None],
    ratios: Mapping[str, float | None],
) -> None:
    """Print the line of JSON where it is asked for. What is not a number (a peer that is not installed) is null."""
    if options.json:
        line = {"name": name, "figures": _rounded(figures), "ratios": _rounded(ratios)}
        print(json.dumps(line, allow_nan=False))


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {
        name: None if value is None or not math.isfinite(value) else round(value, 3) for name, value in values.items()
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else math.nan
