"""What reading a source comes to, counted while it is read."""

from collections import Counter
from dataclasses import dataclass, field

from gradsift.datastore.examples import BadRow, Example
from gradsift.datastore.origins import Read
from gradsift.datastore.predicates import SHOWN
from gradsift.datastore.readings import PoorFile, SourceReport, Unread

GOOD = ""
FIRST = 3  # barren and poor files that are named
MUCH = 0.5  # of the rows of a source or file: more refused is a warning


@dataclass
class Tally:
    """Counts of one source. `went` is {outcome: rows by source name}; `files` are {file: rows by reason}, usable ones
    under `GOOD`; `first` is where the first row of each reason is. `unkept` are other columns that `keep` names,
    `unmet` those that `where` looks at, which no usable row had until now; `known` some that rows have."""

    went: dict[str, Counter[str]] = field(default_factory=dict)
    files: dict[str, Counter[str]] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    places: Read = field(default_factory=Read)  # of all usable rows that `where` does not leave out
    unkept: set[str] = field(default_factory=set)
    unmet: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)

    def add(self, outcome: str, source: str) -> None:
        """Count a row of that outcome."""
        self.went.setdefault(outcome, Counter())[source] += 1

    def see(self, row: Example | BadRow) -> None:
        """Count a row that was read and goes on."""
        if isinstance(row, Example):
            self.places.add(row.example_id, row.file, row.line)
        self._count(row)

    def leave_out(self, row: Example) -> None:
        """Count a row that was read and that `where` leaves out."""
        self.add("filtered", row.source)
        self._count(row)

    def _count(self, row: Example | BadRow) -> None:
        reason = row.reason if isinstance(row, BadRow) else GOOD
        self.files.setdefault(row.file, Counter())[reason] += 1
        self.add("read", row.source)
        if self.unkept and isinstance(row, Example):
            self.unkept -= row.extra.keys()
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
            poor=self._poor()[:FIRST],
            absent={name: sorted(found) for name, found in (("keep", self.unkept), ("where", self.unmet)) if found},
            columns=sorted(self.known)[:SHOWN],
        )

    def _poor(self) -> list[PoorFile]:
        """Files of several of which more than `MUCH` was refused, and not all, the most refused first."""
        found = []
        for file, reasons in sorted(self.files.items()):
            refused = Counter({reason: rows for reason, rows in reasons.items() if reason != GOOD})
            if len(self.files) > 1 and reasons[GOOD] and refused.total() > MUCH * reasons.total():
                found.append(PoorFile(file, reasons.total(), dict(refused.most_common())))
        return sorted(found, key=lambda poor: -sum(poor.refused.values()))


def went(tallies: list[Tally]) -> dict[str, Counter[str]]:
    """The outcomes of several sources together."""
    every: dict[str, Counter[str]] = {}
    for tally in tallies:
        for outcome, counts in tally.went.items():
            every.setdefault(outcome, Counter()).update(counts)
    return every
