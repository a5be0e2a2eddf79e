"""What a statement of `gradsift sql` may say: one SELECT, over tables of the store, by functions that are listed.

Polars' SQL can also read files (`read_csv(…)`), and make and drop tables. So a statement is taken apart into words,
quoted names, texts, numbers and signs before Polars sees it, and put together again from these, without its comments.
It must begin with SELECT or WITH; before a parenthesis stands one of `FUNCTIONS`, a word of the language, or a sign
that nothing is called by (Polars takes a text for a function's name, too). What one reader of SQL might take for
another thing than the next is refused: escapes in texts, texts with a letter before them, other quotes. The tables are
those that the caller registers, and no others.

Columns that hold a JSON object (`JSON`) may be asked for a field, `extra->>'quality'`: Polars has no function for it,
so it becomes a column of that name, which the caller adds to the tables.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from gradsift.datastore.errors import InputError
from gradsift.datastore.tables import TABLES

FUNCTIONS = {
    "abs", "acos", "acosd", "array_agg", "array_contains", "array_get", "array_length", "array_lower", "array_mean",
    "array_reverse", "array_sum", "array_to_string", "array_unique", "array_upper", "asin", "asind", "atan",
    "atan2", "atan2d", "atand", "avg", "bit_and", "bit_count", "bit_length", "bit_not", "bit_or", "bit_xor", "cast",
    "cbrt", "ceil", "ceiling", "char_length", "character_length", "coalesce", "columns", "concat", "concat_ws",
    "corr", "cos", "cosd", "cot", "cotd", "count", "covar", "covar_pop", "covar_samp", "cume_dist", "current_date",
    "date", "date_part", "date_trunc", "degrees", "dense_rank", "div", "ends_with", "exp", "extract", "first",
    "first_value", "floor", "greatest", "group_concat", "grouping", "if", "ifnull", "initcap", "lag", "last",
    "last_value", "lead", "least", "left", "length", "listagg", "ln", "log", "log10", "log1p", "log2", "lower",
    "lpad", "ltrim", "max", "median", "min", "mod", "normalize", "nth_value", "ntile", "nullif", "octet_length",
    "percent_rank", "pi", "position", "pow", "power", "quantile_cont", "quantile_disc", "radians", "rank",
    "regexp_like", "regexp_replace", "replace", "reverse", "right", "round", "row_number", "rpad", "rtrim", "sign",
    "sin", "sind", "split_part", "sqrt", "starts_with", "stddev", "stddev_samp", "stdev", "strftime", "string_agg",
    "string_to_array", "strpos", "strptime", "substr", "substring", "sum", "tan", "tand", "timestamp", "trim",
    "trunc", "truncate", "try_cast", "unnest", "upper", "var", "var_samp", "variance",
}  # fmt: skip
BEFORE_PARENTHESES = {
    "all", "and", "any", "as", "between", "by", "case", "char", "cube", "decimal", "distinct", "else", "except",
    "exclude", "exists", "filter", "float", "from", "group", "having", "ilike", "in", "intersect", "interval", "is",
    "join", "like", "limit", "not", "numeric", "offset", "on", "or", "order", "over", "partition", "qualify",
    "rename", "rollup", "select", "sets", "similar", "string", "then", "to", "union", "using", "values", "varchar",
    "when", "where", "with",
}  # fmt: skip
INSTEAD = {"len": "length", "mean": "avg", "quantile": "quantile_cont", "instr": "strpos", "nvl": "coalesce"}
WRITES = {"into", "insert", "update", "delete", "merge", "create", "drop", "truncate", "alter"}
JSON = {"extra", "more", "details", "recipe", "summary"}
TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f]+|--[^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")+")
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<word>[A-Za-z_][A-Za-z_0-9]*)
    |(?P<sign>->>|->|::|\|\||<=|>=|<>|!=|[-+*/%(),.;<>=\[\]:~!^&|])""",
    re.S | re.X,
)


@dataclass(frozen=True)
class Field:
    """A field of a column that holds a JSON object: its path, and the name of the column that it becomes."""

    column: str
    path: str
    name: str


@dataclass(frozen=True)
class Statement:
    """A statement that may be run: its text, the tables and fields that it looks at, and whether its own list of
    columns has a `*`."""

    text: str
    tables: tuple[str, ...]
    fields: tuple[Field, ...]
    star: bool


@dataclass
class _Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        """In lower case, of a word; else empty."""
        return self.text.lower() if self.kind == "word" else ""


def checked(text: str) -> Statement:
    """The statement, if it is one that may be run. Raises InputError that says what is wrong with it."""
    tokens = _tokens(text)
    said = [token for token in tokens if token.kind != "space"]
    while said and said[-1].text == ";":
        tokens.remove(said.pop())
    if not said:
        raise InputError('SQL: there is no statement; try "select source, count(*) from examples group by 1"')
    first = next((token for token in said if token.text != "("), said[0])
    if first.word not in ("select", "with"):
        raise _refused(f"a statement begins with SELECT or WITH, not {first.text!r}: a store is looked at, not changed")
    if not any(token.word == "select" for token in said):
        raise _refused("there is no SELECT in it")
    for token, after in pairwise([*said, _Token("end", "")]):
        _check(token, after)
    for token, opens, closes in zip(said, said[1:], said[2:], strict=False):
        if token.word in ("greatest", "least") and (opens.text, closes.text) == ("(", ")"):  # Polars panics
            raise _refused(f"{token.text}() of nothing: give what to compare")
    for token, after in pairwise(tokens):
        if after.kind == "text" and token.kind in ("word", "number", "quoted"):
            raise _refused(f"put a space before {after.text}")
    names = {token.text.strip('"') for token in said if token.kind in ("word", "quoted")}
    star = _has_star(said)
    fields = _take_fields(tokens)
    text = "".join(token.text for token in tokens).strip()
    return Statement(text, tuple(name for name in TABLES if name in names), tuple(fields), star)


def _refused(why: str) -> InputError:
    return InputError(
        f"SQL: {why}. `gradsift sql --schema` lists the tables; docs/sql.md says what a statement may say"
    )


def _tokens(text: str) -> list[_Token]:
    tokens, at = list[_Token](), 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None or (found[0] == "/" and text.startswith("/*", at)):
            raise _refused(_unreadable(text, at))
        kind = found.lastgroup or ""
        if kind == "text" and "\\'" in found[0]:
            raise _refused(f"a backslash before a quote, in {found[0]}: a quote in a text is written twice, ''")
        tokens.append(_Token(kind, " " if kind == "space" else found[0]))
        at = found.end()
    return tokens


def _unreadable(text: str, at: int) -> str:
    known = {"'": "a text", '"': "a quoted name", "/": "a comment"}
    if text[at] in known:
        return f"{known[text[at]]} begins at character {at + 1} and has no end"
    shown = text[at] if text[at].isprintable() else repr(text[at])
    return f"{shown} at character {at + 1} is no sign of this SQL; texts stand in '…', names of any signs in \"…\""


def _check(token: _Token, after: _Token) -> None:
    """Refuse what does not only look."""
    called = after.text == "("
    if token.text == ";":
        raise _refused("one statement at a time")
    if token.word in WRITES and not (called and token.word in FUNCTIONS):
        raise _refused(
            f'{token.text.upper()}: a store is looked at, not changed (a column of that name is "{token.text}")'
        )
    if called and (token.kind in ("quoted", "text", "number") or token.text in (")", "]", ".")):
        raise _refused(f"{token.text} before a parenthesis: a function's name is a plain word")
    if called and token.word and token.word not in FUNCTIONS | BEFORE_PARENTHESES:
        near = INSTEAD.get(token.word) or next(iter(difflib.get_close_matches(token.word, FUNCTIONS, 1, 0.75)), None)
        raise _refused(f"there is no function {token.text}{f' (but {near})' if near else ''}")


def _has_star(said: Sequence[_Token]) -> bool:
    """Whether the statement's own list of columns, not that of a part in parentheses, has a `*` for all columns."""
    depths = list(accumulate((token.text == "(") - (token.text == ")") for token in said))
    own = min(depth for token, depth in zip(said, depths, strict=True) if token.word == "select")
    inside = False
    for before, (token, depth) in zip([_Token("", ""), *said], zip(said, depths, strict=True), strict=False):
        if depth == own and token.word in ("select", "from"):
            if inside:
                return False
            inside = token.word == "select"
        elif inside and token.text == "*" and (before.word in ("select", "distinct") or before.text in (",", ".")):
            return True
    return False


def _take_fields(tokens: list[_Token]) -> list[Field]:
    """Put `"extra->>name"` where `extra ->> 'name'` stands; returns what was there."""
    fields: dict[str, Field] = {}
    k = 0
    while k < len(tokens):
        if tokens[k].text in ("->", "->>"):
            before = next((n for n in range(k - 1, -1, -1) if tokens[n].kind != "space"), k)
            after = next((n for n in range(k + 1, len(tokens)) if tokens[n].kind != "space"), k)
            field = _field(tokens[before], tokens[k], tokens[after])
            fields[field.name] = field
            quoted = field.name.replace('"', '""')
            tokens[before : after + 1] = [_Token("quoted", f'"{quoted}"')]
            k = before
        k += 1
    return list(fields.values())


def _field(column: _Token, sign: _Token, path: _Token) -> Field:
    name = column.text.strip('"')
    if sign.text != "->>" or name not in JSON or path.kind != "text":
        raise _refused(
            f"{column.text}{sign.text}{path.text}: ->> gives a field of {', '.join(sorted(JSON))} as text, by its name "
            "or path: extra->>'quality', extra->>'$.meta.lang'"
        )
    plain = path.text[1:-1].replace("''", "'")
    if '"' in plain and not plain.startswith("$"):
        raise _refused(f"a name with a quote, {path.text}: give its path, '$[…]'")
    return Field(name, plain if plain.startswith("$") else f'$["{plain}"]', f"{name}->>{plain}")
