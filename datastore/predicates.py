"""A predicate over rows: what stands after WHERE, in SQLite's words.

It is asked of a database in memory that holds the columns of some thousand rows at a time and nothing else; an
authorizer refuses whatever is not a look at one of these columns or one of `FUNCTIONS`. So it reads no other table or
file, and writes nothing. What it may take of time and memory: `bounds.py`.

Which other columns it looks at (`extra->>'quality'`) is read off its text, so that a name that no row has can be told:
SQLite takes it for null.
"""

import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence

from gradsift.datastore.bounds import bounded, bytes_of
from gradsift.datastore.errors import InputError
from gradsift.datastore.suggest import suggestion

COLUMNS = {
    "id": "the example's id",
    "source": "a source that it was read from",
    "licence": "its licence there, or null",
    "file": "a file that it was read from",
    "line": "the line there",
    "chars": "characters of all its turns",
    "text": "all its turns, one after the other, with what they think",
    "extra": "other columns of the row there, as JSON text or null",
}
SIGNALS = {  # of the newest run that computed gradients, at its last checkpoint; null for an example without a row
    "loss": "mean loss over label tokens, nats",
    "entropy": "mean entropy of the model's distribution there",
    "el2n": "mean EL2N there",
    "grad_norm": "length of the plain gradient",
    "answer_loss": "mean loss of the label tokens given only those before them",
    "tokens": "tokens of the chat",
    "label_tokens": "tokens that the loss is taken of",
}
STATES = {
    "mark": "why the newest run's screening left it out, or null",
    "selected": "how many of the newest selections and mixtures of each name hold it",
    "role": "what the newest run has it for: pool, as screening left it, target, test, left_out by screening, or null",
}
ASKED = {**COLUMNS, **SIGNALS, **STATES}  # what a question may be about
OF_ROW = {
    "source": "its source",
    "licence": "its licence, or null",
    "line": "its line",
    "chars": "characters of all its turns",
    "text": "all its turns, one after the other",
    "extra": "its other columns, as JSON text or null",
}
FUNCTIONS = {
    "->", "->>", "abs", "coalesce", "glob", "ifnull", "instr", "json_extract", "json_type", "length", "like", "lower",
    "ltrim", "max", "min", "nullif", "replace", "round", "rtrim", "substr", "substring", "trim", "upper",
}  # fmt: skip
NUMBERS = {"line", "chars", "tokens", "label_tokens", "selected"}
REALS = set(SIGNALS) - NUMBERS
NO_COLUMN = "no such column: "  # as SQLite says it
SHOWN = 20  # known other columns that a message lists
OF_EXTRA = re.compile(
    r"""\bextra"? \s* ->>? \s* '((?:[^']|'')*)'
    | \bjson_(?:extract|type) \s* \( \s* "?extra"? \s* , \s* '(\$(?:[^']|'')*)'""",
    re.I | re.X,
)
PATH = re.compile(r"""\$\.(?:"([^"]*)"|([^.\[]+))""")


def asked_of_extra(text: str) -> set[str]:
    """Names of other columns that a predicate looks at, as far as its text says them."""
    found = set()
    for name, path in OF_EXTRA.findall(text):
        plain = (name or path).replace("''", "'")
        in_path = PATH.match(plain)
        if in_path:
            found.add(in_path[1] or in_path[2])
        elif not plain.startswith("$"):
            found.add(plain)
    return found


class Predicate:
    """What stands after WHERE, asked of rows that are put into a database of its own."""

    def __init__(self, text: str, columns: Mapping[str, str], field: str) -> None:
        """Over `columns`, {name: what it is}; `field` is where a user wrote it."""
        self.used: set[str] = set()
        self.absent = asked_of_extra(text)  # other columns that it looks at and no row had until now
        self.known: set[str] = set()  # other columns that rows had, as long as one is absent
        self.columns, self.text, self._field = columns, text, field
        self._refused = ""
        self._selects = 0
        self._text = f"SELECT DISTINCT key FROM example WHERE (\n{text}\n)"
        self._alone = f"EXPLAIN SELECT key FROM example WHERE {text}"  # fails where parentheses are not of one pair
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        typed = "".join(f", {name} {_kind(name)}" for name in columns)
        self._database.execute(f"CREATE TABLE example (key TEXT{typed})")
        self._insert = f"INSERT INTO example VALUES (?{', ?' * len(columns)})"

    def of(self, rows: Sequence[Sequence[object]]) -> list[str]:
        """Keys of the rows (key, then its columns) of which it holds. Raises InputError where it is no predicate."""
        self._database.execute("DELETE FROM example")
        self._database.executemany(self._insert, rows)
        if self.absent:
            self._look_for_absent()
        self._database.set_authorizer(self._allow)
        try:
            self._selects = 0
            self._database.execute(self._alone)
            self._selects = 0
            with bounded(self._database, max(map(bytes_of, rows), default=0)):
                return [str(row[0]) for row in self._database.execute(self._text)]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise self.refusal(error) from error
        finally:
            self._database.set_authorizer(None)

    def refusal(self, error: Exception) -> InputError:
        """What to say of an error that it ran into."""
        listed = ", ".join(f"{name} ({what})" for name, what in self.columns.items())
        told = self._refused or str(error).rstrip(".")
        near = suggestion(told.removeprefix(NO_COLUMN), self.columns, "") if NO_COLUMN in told else ""
        return InputError(
            f"{self._field}: {told}" + (f"; {near}" if near else ""),
            'It is what stands after WHERE in SQL, as in "licence is null", "text like \'%ann@example.org%\'" or '
            f"\"extra->>'difficulty' = 'hard'\", over {listed}; functions: {', '.join(sorted(FUNCTIONS))}",
        )

    def refuse_absent(self) -> None:
        """Raise InputError where it looks at another column that none of the rows had."""
        if self.absent:
            raise InputError(f"{self._field}: {absent_words(self.absent, self.known)}")

    def close(self) -> None:
        """Let its rows go."""
        self._database.close()

    def __enter__(self) -> "Predicate":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look_for_absent(self) -> None:
        rows = self._database.execute("SELECT DISTINCT j.key FROM example, json_each(example.extra) AS j")
        self.known |= {str(row[0]) for row in rows}
        self.absent -= self.known

    def _allow(self, action: int, one: str | None, other: str | None, _database: str | None, _by: str | None) -> int:
        if action == sqlite3.SQLITE_SELECT:
            self._selects += 1
            if self._selects == 1:
                return sqlite3.SQLITE_OK
            self._refused = "a SELECT inside is not allowed"
        elif action == sqlite3.SQLITE_READ and one == "example" and other in {*self.columns, "key"}:
            self.used |= {other} & set(self.columns)
            return sqlite3.SQLITE_OK
        elif action == sqlite3.SQLITE_FUNCTION and other in FUNCTIONS:
            return sqlite3.SQLITE_OK
        elif action == sqlite3.SQLITE_FUNCTION:
            self._refused = f"there is no function {other}"
        return sqlite3.SQLITE_DENY


def _kind(name: str) -> str:
    return "INTEGER" if name in NUMBERS else "REAL" if name in REALS else "TEXT"


def absent_words(absent: Collection[str], known: Collection[str]) -> str:
    """That no row has these other columns, and which there are, as far as that is known."""
    named = ", ".join(map(repr, sorted(absent)))
    listed = ", ".join(sorted(known)[:SHOWN]) + (", …" if len(known) > SHOWN else "")
    return f"no row has {named} among its other columns" + (f"; there are: {listed}" if listed else "")
