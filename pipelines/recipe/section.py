"""What all sections of a recipe share. Field docstrings are the reference (docs/make_reference.py prints them)."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gradsift.datastore.amounts import LARGEST

Fields = Mapping[str, Any]  # of a section or a recipe, as a user gives them: not checked yet
Name = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_-]{0,47}$")]
Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings become descriptions, numbers fit 64 bits."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits_64_bits(cls, value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > LARGEST:
                raise ValueError("a number is too large: at most 2^63 - 1")
        return value


def exactly_one(section: Section, *names: str) -> None:
    """Raise ValueError unless exactly one of these fields is given."""
    if sum(getattr(section, name) is not None for name in names) != 1:
        *first, last = (f"`{name}`" for name in names)
        raise ValueError(f"give exactly one of {', '.join(first)} and {last}")
