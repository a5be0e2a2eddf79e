"""How a push to the hub looks on a terminal."""

from typing import TYPE_CHECKING

from gradsift.cli import show
from gradsift.pipelines.memory import in_words

if TYPE_CHECKING:
    from gradsift.pipelines.export.push import Pushed

SHOWN = 20


def show_pushed(pushed: "Pushed") -> None:
    """What the hub got, or would get."""
    dry = pushed.commit is None
    if pushed.sent or pushed.removed:
        rows = [{"file": name, "is": "sent"} for name in pushed.sent]
        rows += [{"file": name, "is": "removed: of an older export"} for name in pushed.removed]
        show.table("Would push" if dry else "Pushed", rows[:SHOWN])
        if len(rows) > SHOWN:
            show.line(f"and {len(rows) - SHOWN:,} more files")
    seen = "private" if pushed.private else "public: everybody may see it"
    there = f"{pushed.unchanged:,} files were there already"
    if not pushed.sent and not pushed.removed:
        show.line(f"{pushed.url} ({pushed.revision}, {seen}) has all of it already; no commit was made")
    elif dry:
        show.line(f"Nothing was pushed: {in_words(pushed.bytes)} would go to {pushed.url} ({seen}); {there}")
    else:
        show.line(f"{in_words(pushed.bytes)} went to {pushed.url} ({pushed.revision}, {seen}), commit "
                  f"{(pushed.commit or '')[:12]}; {there}")  # fmt: skip
