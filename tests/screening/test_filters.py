from collections import Counter
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from models.crystal import ATOMIC_NUMBERS, Crystal
from screening.candidate import Candidate, Origin, id_problem
from screening.errors import ScreeningError
from screening.filters import Filter, FilterVerdict, ScreeningFilters
from screening.funnel import Funnel


def candidate(*symbols, **properties):
    symbols = symbols or ("Mg",)
    numbers = np.array([ATOMIC_NUMBERS[s] for s in symbols])
    coords = np.linspace(0, 1, len(symbols), endpoint=False)[:, None] * np.ones(3)
    known = {"energy_above_hull": 0.0, "band_gap": 0.0, "is_magnetic": False, "has_edos": False}
    crystal = Crystal(np.eye(3) * 4, coords, numbers)
    return Candidate("mp-1", crystal, **{**known, **properties})


def test_cheap_properties_of_a_candidate():
    c = candidate("Mg", "Al", "Al")
    assert (c.formula, c.chemsys, c.elements) == ("MgAl2", "Al-Mg", ("Al", "Mg"))
    assert (c.nelements, c.nsites) == (2, 3)
    assert candidate("Mg", "Al", source_formula="AlMg").formula == "AlMg"


def test_origin_tells_what_it_knows():
    assert Origin("mp", "2025.09.25").as_dict() == {
        "source": "mp",
        "database_version": "2025.09.25",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mp-1", None),
        ("", "empty"),
        (None, "empty"),
        ("a" * 257, "longer"),
        ("a\nb", "printed"),
    ],
)
def test_material_ids(text, problem):
    assert id_problem(text) is None if problem is None else problem in id_problem(text)


@pytest.mark.parametrize(
    ("material", "dropped_by", "reason"),
    [
        (candidate(), None, None),
        (candidate(energy_above_hull=0.5), None, None),
        (candidate(energy_above_hull=0.51), "energy_above_hull", "0.51 eV/atom above hull"),
        (candidate(band_gap=0.01), "band_gap", "0.01 eV band gap"),
        (candidate("Mg", "Al", "O", "H"), None, None),
        (candidate("Mg", "Al", "O", "H", "C"), "n_elements", "5 elements, more than 4"),
        (candidate(is_magnetic=True), "nonmagnetic", "magnetic"),
        (candidate(has_edos=True), "without_edos", "has a DFT DOS already"),
        # the first filter in order takes the blame
        (candidate(energy_above_hull=2, has_edos=True), "energy_above_hull", "2 eV/atom"),
    ],
)
def test_the_papers_defaults(material, dropped_by, reason):
    verdict = ScreeningFilters().judge(material)
    assert verdict.passed is (dropped_by is None)
    assert verdict.dropped_by == dropped_by
    assert reason is None or reason in verdict.reason
    assert verdict.unknown == ()


def test_elements_must_all_be_there_and_excluded_ones_may_not():
    both = ScreeningFilters(elements=["Mg", "Al"], exclude_elements="O, H")
    assert both.judge(candidate("Mg", "Al", "Cu")).passed
    lacking = both.judge(candidate("Mg", "Cu"))
    assert (lacking.dropped_by, lacking.reason) == ("elements", "without Al")
    excluded = both.judge(candidate("Mg", "Al", "O"))
    assert (excluded.dropped_by, excluded.reason) == ("exclude_elements", "with O")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("energy_above_hull", "energy_above_hull"),
        ("band_gap", "band_gap"),
        ("nonmagnetic", "is_magnetic"),
        ("without_edos", "has_edos"),
    ],
)
def test_unknown_properties_are_kept_or_dropped_and_counted(name, field):
    material = candidate(**{field: None})
    kept = ScreeningFilters(unknown="keep").judge(material)
    assert kept == FilterVerdict(True, unknown=(name,))
    dropped = ScreeningFilters(unknown="drop").judge(material)
    assert (dropped.passed, dropped.dropped_by, dropped.unknown) == (False, name, (name,))
    assert "not known" in dropped.reason


def test_large_cells_are_dropped_on_request():
    small, large = ScreeningFilters(max_sites=3), ScreeningFilters(max_sites=2)
    material = candidate("Mg", "Al", "O")
    assert small.judge(material).passed
    verdict = large.judge(material)
    assert (verdict.dropped_by, verdict.reason) == ("n_sites", "3 atoms in the cell, more than 2")


def test_filters_can_be_switched_off_one_by_one():
    off = ScreeningFilters(
        max_energy_above_hull=None,
        max_elements=None,
        max_band_gap=None,
        nonmagnetic=False,
        without_edos=False,
    )
    assert off.active() == ()
    wild = candidate("Mg", "Al", "O", "H", "C", energy_above_hull=9, band_gap=9, is_magnetic=True)
    assert off.judge(wild).passed
    funnel = Funnel.of(off)
    funnel.add(off.judge(wild))
    assert (funnel.entered, funnel.passed) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_energy_above_hull": -0.1}, "--max-ehull -0.1: .*greater than or equal"),
        ({"max_band_gap": -1}, "--max-gap -1: "),
        ({"max_band_gap": float("nan")}, "--max-gap nan"),
        ({"max_elements": 0}, "--max-elements 0: "),
        ({"elements": ["Mg", "Xx", "al"]}, "no element Xx, al"),
        ({"exclude_elements": "X"}, "no element X"),
        (
            {"elements": "Mg Al", "exclude_elements": "Al"},
            "--elements and --exclude-elements both name Al",
        ),
        (
            {"elements": "Mg,Al,O", "max_elements": 2},
            "--elements asks for 3 .*, --max-elements lets a material have 2",
        ),
        ({"unknown": "maybe"}, "--unknown maybe: "),
        ({"max_hull": 1}, "--max-hull 1: extra"),
    ],
)
def test_wrong_filters_are_one_clear_line(options, message):
    with pytest.raises(ScreeningError, match=message) as caught:
        ScreeningFilters.from_options(**options)
    assert "\n" not in str(caught.value)


def test_filters_survive_json():
    filters = ScreeningFilters(elements="Mg", exclude_elements={"O", "H"}, unknown="drop")
    assert ScreeningFilters.model_validate_json(filters.model_dump_json()) == filters


# --- the funnel -----------------------------------------------------------------------------

materials = st.builds(
    candidate,
    energy_above_hull=st.sampled_from([0.0, 0.7, None]),
    band_gap=st.sampled_from([0.0, 1.0, None]),
    is_magnetic=st.sampled_from([True, False, None]),
    has_edos=st.sampled_from([True, False, None]),
)


@given(st.lists(materials, max_size=20), st.sampled_from(["keep", "drop"]))
def test_funnel_accounts_for_every_material(batch, unknown):
    filters = ScreeningFilters(unknown=unknown)
    verdicts = [filters.judge(m) for m in batch]
    whole = Funnel.of(filters)
    whole.add_unreadable()
    for verdict in verdicts:
        whole.add(verdict)
    assert whole.entered == len(batch) + 1
    assert whole.passed == sum(v.passed for v in verdicts)
    for stage, following in zip(whole.stages, whole.stages[1:], strict=False):
        assert following.entered == stage.entered - stage.dropped
    for name in filters.active():
        (stage,) = [s for s in whole.stages if s.name == name]
        assert stage.dropped == sum(v.dropped_by == name for v in verdicts)
        assert stage.unknown == sum(name in v.unknown for v in verdicts)
    assert Funnel.from_dicts(whole.as_dicts()) == whole


def test_funnel_in_plain_dicts():
    filters = ScreeningFilters(max_elements=None, nonmagnetic=False, without_edos=False)
    funnel = Funnel.of(filters)
    for material in (candidate(), candidate(band_gap=None), candidate(band_gap=3)):
        funnel.add(filters.judge(material))
    assert funnel.as_dicts() == [
        {"name": "readable", "entered": 3, "dropped": 0, "unknown": 0},
        {"name": "energy_above_hull", "entered": 3, "dropped": 0, "unknown": 0},
        {"name": "band_gap", "entered": 3, "dropped": 1, "unknown": 1},
    ]


def test_funnel_names_the_filter_that_emptied_it():
    filters = ScreeningFilters()
    funnel = Funnel.of(filters)
    assert funnel.emptied_by() is None
    funnel.add_unreadable()
    assert funnel.emptied_by() == "readable"
    funnel.add(filters.judge(candidate(energy_above_hull=1)))
    funnel.add(filters.judge(candidate(band_gap=1)))
    assert funnel.emptied_by() == "band_gap"
    funnel.add(filters.judge(candidate()))
    assert funnel.emptied_by() is None


def test_funnel_behind_a_source_that_applies_filters_itself():
    funnel = Funnel(("readable", "band_gap"), entered=5, dropped=Counter(band_gap=2))
    applied = Funnel(("database", "n_elements"), entered=9, dropped=Counter(n_elements=2))
    stages = [(s.name, s.entered, s.dropped) for s in funnel.stages_behind("mp", applied)]
    assert stages == [
        ("mp: database", 9, 0),
        ("mp: n_elements", 9, 2),
        ("mp: limit", 7, 2),  # the source had 7, of which 5 were read
        ("readable", 5, 0),
        ("band_gap", 5, 2),
    ]


# --- one more filter ------------------------------------------------------------------------


def too_thin(candidate: Candidate, least: float) -> str | None:
    density = candidate.nsites / candidate.structure.volume
    return None if density >= least else f"{density:.3g} atoms/Å^3, fewer than {least:g}"


DENSITY = Filter("density", too_thin)


class WithDensity(ScreeningFilters):
    min_density: Annotated[float | None, DENSITY] = Field(default=0.02, description="Density.")


def test_a_new_filter_is_an_object_and_a_field():
    filters = WithDensity(max_sites=4)
    assert filters.active()[-2:] == ("density", "n_sites")  # what needs the cell comes last
    funnel = Funnel.of(filters)
    for material in (candidate("Mg"), candidate("Mg", "Al")):
        funnel.add(filters.judge(material))
    stages = {stage.name: (stage.entered, stage.dropped) for stage in funnel.stages}
    assert (stages["density"], stages["n_sites"]) == ((2, 1), (1, 0))
    assert filters.judge(candidate("Mg")).reason == "0.0156 atoms/Å^3, fewer than 0.02"
    assert filters.model_dump()["min_density"] == 0.02
    with pytest.raises(ScreeningError, match="--min-density many: "):
        WithDensity.from_options(min_density="many")
