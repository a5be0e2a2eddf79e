"""A finding of statistics as what is recorded and shown of it."""

from dataclasses import asdict, fields

from gradsift.datastore.compared import Versus
from gradsift.scorers.verdicts import Finding


def versus(finding: Finding) -> Versus:
    """The same as one flat value."""
    known = {field.name: getattr(finding, field.name) for field in fields(finding)}
    this_set, method = known.pop("this_set"), known.pop("method")
    return Versus(**known, **asdict(this_set), **{f"method_{name}": value for name, value in asdict(method).items()})
