"""What a summary document of the Materials Project says, and the columns of tables of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from models.crystal import Crystal
from models.errors import ModelError
from screening.sources.properties import flag

if TYPE_CHECKING:
    import pyarrow as pa

ORDERINGS = {"NM": False, "FM": True, "AFM": True, "FiM": True}


def has_dos(props: Any) -> bool | None:
    """Of ``has_props``: a dict of flags, a list of names in older documents."""
    if isinstance(props, dict):
        return bool(props.get("dos", False))
    return "dos" in props if isinstance(props, list) else None


def is_magnetic(document: Mapping[str, Any]) -> bool | None:
    """By the magnetic ordering; None if it is not known, though ``is_magnetic`` is ``false`` then.

    Raises
    ------
    ModelError
        If `is_magnetic` is neither true nor false.
    """
    ordering = document.get("ordering")
    known = ORDERINGS.get(ordering) if isinstance(ordering, str) else None
    return (flag(document, "is_magnetic") or None) if known is None else known


def time_of(value: Any) -> str | None:
    """ISO time, which MongoDB and monty wrap in a dict."""
    if isinstance(value, dict):
        value = value.get("$date", value.get("string"))
    return value if isinstance(value, str) else None


def usual_id(identifier: str) -> str:
    """Id in the form that users and publications know: ``"mp-149"`` for ``"mp-aaaaaaft"``.

    Ids beyond those of the old numbering have no such form and stay as they are.
    """
    from emmet.core.types.typing import format_identifier

    try:
        return str(format_identifier(identifier, legacy=True))
    except ValueError:
        return identifier


def structure_columns(document: Mapping[str, Any]) -> dict[str, Any]:
    """The columns lattice, species and frac_coords of a document.

    Raises
    ------
    ModelError
        If it has no usable structure.
    """
    structure = document.get("structure")
    if structure is None:
        raise ModelError("the document has no structure")
    crystal = Crystal.from_dict(structure)
    return {
        "lattice": crystal.lattice.ravel(),
        "species": crystal.atomic_numbers,
        "frac_coords": crystal.frac_coords.ravel(),
    }


def material_row(
    document: dict[str, Any], properties: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Row of a table for a summary document: id, formula, structure, and its properties.

    Parameters
    ----------
    document : dict
    properties : callable
        The other columns; raises :class:`models.errors.ModelError` where they cannot be used.

    Returns
    -------
    dict
        With the reason as `problem` where the material cannot be used; it has no structure then.
    """
    identifier = document.get("material_id")
    row: dict[str, Any] = {
        "material_id": usual_id(identifier) if identifier else None,
        "formula": document.get("formula_pretty"),
        "last_updated": time_of(document.get("last_updated")),
    }
    try:
        row.update(properties(document))
        row.update(structure_columns(document))
    except ModelError as error:
        row["problem"] = str(error)
    return row


def structure_fields() -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns of a structure."""
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    return [("lattice", numbers), ("species", pa.list_(pa.int16())), ("frac_coords", numbers)]


def material_schema(properties: list[tuple[str, pa.DataType]]) -> pa.Schema:
    """Schema of a table of :func:`material_row` with these properties."""
    import pyarrow as pa

    return pa.schema(
        [
            ("material_id", pa.string()),
            ("formula", pa.string()),
            *structure_fields(),
            *properties,
            ("problem", pa.string()),
        ]
    )
