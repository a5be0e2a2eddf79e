"""How `auto` came to a method, in words."""

from gradsift.datastore.compared import Portfolio, Versus


def told(portfolio: Portfolio) -> str:
    """Which method won, by what, and by how much: against the one that lost to it last, and against random rows."""
    methods = {tried.method for tried in portfolio.rounds} - {"random"}
    names = dict.fromkeys(name for name in (portfolio.runner_up, "random") if name in portfolio.versus)
    how = f"{portfolio.trainings} trainings of {_epochs(portfolio.epochs)}, {portfolio.spent:.2g} FLOPs"
    against = "; ".join(f"{_difference(portfolio.versus[name])} {name}" for name in names)
    return f"{portfolio.won} of {len(methods)} methods by {how}" + (f": on val, {against}" if against else "")


def _epochs(count: int) -> str:
    return "an epoch" if count == 1 else f"{count} epochs"


def _difference(versus: Versus) -> str:
    p = versus.told[2]
    sure = versus.verdict if p is None else f"{versus.verdict}, p {p:.2g}"
    return f"{abs(versus.difference):.4f} nats {'below' if versus.difference < 0 else 'above'} ({sure})"
