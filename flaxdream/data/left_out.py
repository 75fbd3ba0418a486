"""What a set of pictures goes on without: counted by reason, the first names kept."""

from __future__ import annotations

from collections import Counter

SHOWN = 5


class LeftOut:
    """Counts and first names for each reason; millions of names would not be read by anybody."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] += 1
        if len(names := self.names.setdefault(reason, [])) < SHOWN:
            names.append(name)

    def lines(self, where: str) -> list[str]:
        """A line for each reason."""
        return [
            f"{where}: left out {count} {reason}: {self.shortened(reason)}" for reason, count in self.counts.items()
        ]

    def shortened(self, reason: str) -> str:
        """The first names, and how many more there are."""
        names, more = self.names[reason], self.counts[reason] - len(self.names[reason])
        return ", ".join(names) + (f", and {more} more" if more else "")
