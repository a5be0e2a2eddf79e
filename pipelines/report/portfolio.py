"""How `auto` came to its method: what the report shows of its trials."""

from collections.abc import Sequence

from gradsift.datastore.compared import Portfolio
from gradsift.datastore.runs import SelectionReport
from gradsift.pipelines.report.arms import how, versus_rows
from gradsift.pipelines.report.parts import Part, Section
from gradsift.pipelines.select.told import told


def portfolio_section(selections: Sequence[SelectionReport]) -> Section:
    """The rounds of each target, and the winner against the others."""
    parts = [part for made in selections if made.portfolio for part in _parts(made.target, made.portfolio)]
    text = (
        "Each method chose by one half of the target's val rows and was judged on the other. The winner was picked by "
        "these very figures, so its lead is flattered a little, though the p are corrected for all pairs; test rows "
        "were not looked at, and only validation says what it gains."
    )
    return Section("Which method was believed", parts, text)


def _parts(target: str, portfolio: Portfolio) -> list[Part]:
    rounds = [
        {
            "method": tried.method,
            "round": tried.round,
            "seeds": tried.seeds,
            "loss on val": tried.loss,
            "outcome": "reference" if tried.method == "random" else "stayed" if tried.stayed else "left",
        }
        for tried in portfolio.rounds
    ]
    told_of = f"{told(portfolio)}. {portfolio.allowed:.3g} FLOPs were allowed."
    parts = [Part(f"Rounds for {target}", rounds, note=told_of, highlight=(portfolio.won,))]
    if portfolio.versus:
        title = f"{portfolio.won} against the others on val of {target}"
        parts.append(Part(title, versus_rows(portfolio.versus), note=how(portfolio.versus.values(), "val row")))
    return parts
