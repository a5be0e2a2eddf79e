"""Rows that do harm where text of data sets is taken for anything but text: in a page, on a terminal, to the eye."""

from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FAR = "<img src=https://example.org/pixel.png><link rel=stylesheet href=//example.org/a.css>"
BIDI = "pay \u202e001\u202c dollars \u2066to\u2069 \u200bBob\ufeff"
TERMINAL = "\x1b[31mred\x1b[0m \x07bell \x00nul \x9b2J"
TEMPLATE = "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}"
LONG = "word " * 200_000 + "the very end"  # a megabyte
UNBROKEN = "W" * 5_000
ZALGO = "Z" + "\u0341\u0342\u0343" * 200
JAVASCRIPT = "javascript:document.title='owned'"
CASES = {
    "script": SCRIPT,
    "far": FAR,
    "bidi": BIDI,
    "terminal": TERMINAL,
    "template": TEMPLATE,
    "long": LONG,
    "unbroken": UNBROKEN,
    "zalgo": ZALGO,
    "javascript": JAVASCRIPT,
}


def chat(text):
    """A chat that says it in every place that a chat has."""
    call = {"id": text, "type": "function", "function": {"name": text[:64], "arguments": {text[:32]: text}}}
    tool = {"type": "function", "function": {"name": text[:64], "description": text, "parameters": {text[:32]: text}}}
    return [
        {"role": "user", "content": text, "name": text[:64], "tools": [tool]},
        {"role": "assistant", "content": text, "tool_calls": [call], "reasoning_content": text},
        {"role": "tool", "content": text, "tool_call_id": text[:64]},
        {"role": "assistant", "content": text, "thinking": text},
    ]


def rows():
    """An example of each case, which says it as its source, licence, file and columns, too."""
    made = []
    for name, text in CASES.items():
        start = text[:200].replace("\0", "")  # which a catalog on PostgreSQL does not hold
        messages = (
            chat(text)
            if name != "long"
            else [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
        )
        made.append(
            Example(
                example_id(messages),
                messages,
                f"hostile {start}",
                f"/data/{start}.jsonl",
                7,
                start,
                extra={start: start},
            )
        )
    return made


IDS = {name: row.example_id for name, row in zip(CASES, rows(), strict=True)}
