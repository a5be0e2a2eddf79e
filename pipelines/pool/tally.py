"""What reading a source comes to, counted while it is read."""

from collections import Counter
from dataclasses import dataclass, field

from gradsift.datastore.examples import BadRow, Example
from gradsift.datastore.origins import Read
from gradsift.datastore.readings import SourceReport, Unread

GOOD = ""
FIRST = 3  # barren files that are named


@dataclass
class Tally:
    """Counts of one source. `went` is {outcome: rows by source name}; `files` are {file: rows by reason}, usable ones
    under `GOOD`; `first` is where the first row of each reason is."""

    went: dict[str, Counter[str]] = field(default_factory=dict)
    files: dict[str, Counter[str]] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    places: Read = field(default_factory=Read)  # of all usable rows

    def add(self, outcome: str, source: str) -> None:
        """Count a row of that outcome."""
        self.went.setdefault(outcome, Counter())[source] += 1

    def see(self, row: Example | BadRow) -> None:
        """Count a row that was read."""
        reason = row.reason if isinstance(row, BadRow) else GOOD
        self.files.setdefault(row.file, Counter())[reason] += 1
        self.add("read", row.source)
        if isinstance(row, Example):
            self.places.add(row.example_id, row.file, row.line)
        if reason:
            self.add("quarantined", row.source)
            self.first.setdefault(reason, f"{row.file}:{row.line}")

    @property
    def reasons(self) -> Counter[str]:
        """Rows by reason, usable ones under `GOOD`."""
        return sum(self.files.values(), Counter())

    def report(self, place: str) -> SourceReport:
        """As it is kept."""
        refused = self.reasons
        del refused[GOOD]
        barren = sorted(file for file, reasons in self.files.items() if not reasons[GOOD])
        return SourceReport(
            place=place,
            rows=sum(self.reasons.values()),
            refused=dict(refused.most_common()),
            first=self.first,
            barren=len(barren),
            barren_files=barren[:FIRST],
            unread=self.unread,
        )


def went(tallies: list[Tally]) -> dict[str, Counter[str]]:
    """The outcomes of several sources together."""
    every: dict[str, Counter[str]] = {}
    for tally in tallies:
        for outcome, counts in tally.went.items():
            every.setdefault(outcome, Counter()).update(counts)
    return every
