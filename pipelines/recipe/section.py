"""What all sections of a recipe share. Field docstrings are the reference (docs/make_reference.py prints them)."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fields = Mapping[str, Any]  # of a section or a recipe, as a user gives them: not checked yet
Name = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_-]{0,47}$")]
Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings become descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def exactly_one(section: Section, *names: str) -> None:
    """Raise ValueError unless exactly one of these fields is given."""
    if sum(getattr(section, name) is not None for name in names) != 1:
        *first, last = (f"`{name}`" for name in names)
        raise ValueError(f"give exactly one of {', '.join(first)} and {last}")
