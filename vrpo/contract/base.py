"""The base of everything a user submits: strict, frozen, and storable in every database."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must be valid Unicode text, without lone surrogates")
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""Text that every database and JSON encoder can hold."""
Auto = Literal["auto"]


class Spec(BaseModel):
    """Base of everything a user submits."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
