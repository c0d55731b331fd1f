"""Samples of a row, and how they are printed: rates with their range; ratios are medians of the rounds' own."""

from __future__ import annotations

import statistics
import sys
from typing import NamedTuple


class Sample(NamedTuple):
    """One run. `cpu`: the process's own seconds, where it was alone at work."""

    seconds: float
    amount: float
    cpu: float | None = None

    @property
    def rate(self) -> float:
        return self.amount / self.seconds


Samples = dict[str, list[Sample]]  # by subject


def show(row: str, samples: Samples, unit: str, scale: float = 1) -> None:
    """Print a row; every subject is compared with the first one, round by round."""
    print(f"\n{row}")
    ours, *_ = samples.values()
    for name, values in samples.items():
        rates = sorted(value.rate / scale for value in values)
        digits = 0 if rates[-1] >= 100 else 1
        low, middle, high = (f"{rate:,.{digits}f}" for rate in (rates[0], statistics.median(rates), rates[-1]))
        line = f"  {name:16} {middle:>12} {unit:9} ({low} to {high})"
        if values is not ours:
            line += f"   {next(iter(samples))} / {name} = {ratio(ours, values):.2f}"
            if ours[0].cpu and values[0].cpu:
                line += f" (by CPU time {ratio(_by_cpu(ours), _by_cpu(values)):.2f})"
        if name == "guestkit-plain" and "limit" in samples:
            line += f"   {name} / limit = {ratio(values, samples['limit']):.2f}"
        print(line)
    sys.stdout.flush()


def ratio(ours: list[Sample], theirs: list[Sample]) -> float:
    """How many times faster `ours` is; a slow peer may have fewer rounds."""
    return statistics.median(mine.rate / other.rate for mine, other in zip(ours, theirs, strict=False))


def _by_cpu(samples: list[Sample]) -> list[Sample]:
    return [Sample(sample.cpu or sample.seconds, sample.amount) for sample in samples]
