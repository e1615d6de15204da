"""What was skipped, counted by kind, with a few names each: a skip that nobody hears of is a lie about the data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 5


@dataclass
class Problems:
    """Counts of what could not be used.

    Attributes:
        counts: how often each kind occurred.
        examples: the first few places of each kind.

    >>> problems = Problems()
    >>> problems.add("no picture", "a.tar: cat-1")
    >>> problems.lines()
    ['no picture: 1 (a.tar: cat-1)']
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """Count one."""
        self.counts[kind] += 1
        known = self.examples.setdefault(kind, [])
        if len(known) < EXAMPLES:
            known.append(where)

    def update(self, other: Problems) -> None:
        """Count all of the other's."""
        self.counts.update(other.counts)
        for kind, places in other.examples.items():
            known = self.examples.setdefault(kind, [])
            known.extend(places[: EXAMPLES - len(known)])

    def __bool__(self) -> bool:
        return bool(self.counts)

    def lines(self) -> list[str]:
        """One line a kind, the most frequent first."""
        return [
            f"{kind}: {count} ({', '.join(self.examples[kind])}{', …' if count > len(self.examples[kind]) else ''})"
            for kind, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        ]

    def to_json(self) -> dict[str, dict[str, object]]:
        """For the index's metadata."""
        return {kind: {"count": count, "examples": self.examples[kind]} for kind, count in sorted(self.counts.items())}

    @classmethod
    def from_json(cls, obj: dict[str, dict[str, object]]) -> Problems:
        """Read what ``to_json`` wrote."""
        problems = cls()
        for kind, entry in obj.items():
            problems.counts[kind] = int(str(entry["count"]))
            examples = entry["examples"]
            problems.examples[kind] = [str(place) for place in examples] if isinstance(examples, list) else []
        return problems
