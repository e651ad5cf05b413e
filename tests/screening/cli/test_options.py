"""Options that come from the fields of a model."""

from __future__ import annotations

from typing import Any

import typer
from typer.testing import CliRunner

from screening.cli import options
from screening.filters import ScreeningFilters

FILTERS = options.FieldOptions("tests.screening.test_filters:WithDensity", "Filters", ("unknown",))


def given(*arguments: str) -> dict[str, Any]:
    """What a command with one more filter gets."""
    taken: dict[str, Any] = {}

    @options.from_fields(filters=FILTERS)
    def command(first: str = "x", *, filters: dict[str, Any], last: bool = False) -> None:
        taken.update(filters, first=first, last=last)

    app = typer.Typer()
    app.command(cls=command.command_class)(command)  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, [*arguments])
    if result.exception:
        raise result.exception
    return taken | {"out": result.stdout}


def test_a_new_filter_is_an_option_of_its_own() -> None:
    assert given("--min-density", "0.5", "--last")["min_density"] == 0.5
    taken = given("--max-ehull", "inf", "--any-edos", "--elements", "Mg,O", "--min-density", "inf")
    assert (taken["max_energy_above_hull"], taken["min_density"]) == (None, None)
    assert (taken["without_edos"], taken["elements"]) == (False, "Mg,O")


def test_what_is_not_set_is_left_to_the_model() -> None:
    taken = given()
    assert not {"unknown", "elements", "max_sites"} & taken.keys()
    filters = {k: v for k, v in taken.items() if k not in ("first", "last", "out")}
    assert filters == {
        name: getattr(ScreeningFilters(), name)
        for name in ("max_energy_above_hull", "max_elements", "max_band_gap", "nonmagnetic")
    } | {"without_edos": True, "min_density": 0.02}


def test_options_stand_where_the_parameter_stands() -> None:
    text = given("--help")["out"]
    places = [text.index(name) for name in ("--first", "--last", "--max-ehull", "--min-density")]
    assert places == sorted(places)  # panel by panel
    assert "Density." in text
