"""The criteria that ship, against slow references in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.crystal import Crystal
from models.predictor import SpectrumPredictor
from models.spectra.phonons import heat_capacities
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid
from screening.criteria.features import FEATURES, EdosMeasure, PhdosMeasure, measured
from screening.criteria.registry import criterion_names, find_criterion
from screening.errors import ScreeningError
from screening.gap import GapCriteria, find_gaps

WIDTH = 0.0625  # eV, of a bin
N = 1000


def edos(n: int = N, seed: int = 0) -> np.ndarray:
    """Blocks of empty, low and high DOS, often with an isolated band at the Fermi level."""
    rng = np.random.default_rng(seed)
    dos = rng.choice([0.0, 0.3, 0.9, 1.0, 3.0, 9.0], (n, 16)).repeat(8, axis=1)
    isolated = rng.random(n) < 0.5
    for row in np.flatnonzero(isolated):
        below, above = rng.integers(2, 18, 2)
        dos[row, 64 - below - 20 : 64 - below] = rng.choice([0.0, 0.4])
        dos[row, 64 + above : 64 + above + 20] = rng.choice([0.0, 0.4])
        dos[row, 64 - below : 64 + above] = rng.uniform(0.5, 6.0)
    slope = rng.uniform(-1.0, 1.0, (n, 1)) * (np.arange(128) - 63.5) / 4
    steep = rng.random((n, 1)) < 0.5
    return np.where(steep, np.clip(dos + 2 * slope, 0.0, None), dos)


def phdos(n: int = N, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Acoustic modes, mostly a gap, optical modes, and sometimes imaginary ones."""
    rng = np.random.default_rng(seed)
    dos, atoms = np.zeros((n, PHDOS_GRID.size)), rng.integers(1, 7, n)
    for row, number in enumerate(atoms):
        top = rng.integers(18, 26)
        dos[row, 15:top] = rng.uniform(0.5, 1.0, top - 15)
        dos[row, 15:top] *= 3 / dos[row, 15:top].sum()
        if number > 1:
            low = top + rng.integers(0, 14)
            high = low + rng.integers(1, 10)
            optical = 3 * (number - 1) * rng.choice([1.0, 1.0, 0.8])
            dos[row, low:high] += optical / (high - low)
        if rng.random() < 0.3:
            dos[row, rng.integers(0, 15)] = rng.choice([0.001, 0.02, 0.5]) * number
        if rng.random() < 0.3:
            dos[row, rng.integers(15, 60)] += rng.choice([0.001, 0.1])
        dos[row] *= rng.choice([1e-3, 1.0, 50.0])
    return dos, atoms


def runs(values: list[float], limit: float) -> list[tuple[int, int]]:
    """First and one past the last of each run of values below the limit."""
    found, start = [], None
    for i, value in enumerate([*values, math.inf]):
        if value < limit and start is None:
            start = i
        elif not value < limit and start is not None:
            found.append((start, i))
            start = None
    return found


def best_gap(values: list[float]) -> tuple[int, int] | None:
    """The widest run that is a VB gap."""
    gaps = []
    for first, end in runs(values, 1.0):
        upper = -4.0 + WIDTH * end
        if (end - first) * WIDTH >= 1.0 and -1.0 <= upper <= -0.25:
            gaps.append((end - first, end, first))
    if not gaps:
        return None
    _, end, first = max(gaps)
    return first, end


def emptiness(values: list[float], gap: tuple[int, int]) -> float:
    return sum((1.0 - values[i]) * WIDTH for i in range(*gap))


@pytest.mark.parametrize("band", ["valence", "conduction"])
def test_gaps_are_those_of_find_gaps_to_the_bit(band):
    dos, n_atoms = edos(400), np.arange(1, 401)
    criterion = find_criterion("vb-gap", {"band": band, "max_dos": 0.9})
    assert criterion.name == ("vb-gap" if band == "valence" else "cb-gap")
    verdicts = criterion.judge(dos, EDOS_GRID, n_atoms)
    gaps = find_gaps(EDOS_GRID, dos, GapCriteria(band=band, max_dos=0.9), n_atoms)
    np.testing.assert_array_equal(verdicts.is_positive, gaps.is_gap)
    np.testing.assert_array_equal(verdicts.score, gaps.score)
    np.testing.assert_array_equal(verdicts.gaps.margins, gaps.margins)
    assert verdicts.is_positive.any()


def test_the_cb_gap_is_the_mirror_image_of_the_vb_gap():
    dos = edos()
    verdicts = find_criterion("cb-gap").judge(dos, EDOS_GRID, np.ones(N))
    expected = [best_gap(row[::-1]) for row in dos.tolist()]
    assert verdicts.is_positive.tolist() == [gap is not None for gap in expected]
    for row, gap in enumerate(expected):
        if gap is not None:
            assert verdicts.score[row] == pytest.approx(emptiness(dos[row, ::-1].tolist(), gap))


def test_transparent_conductors_have_both_gaps_and_states_between_them():
    dos = edos()
    verdicts = find_criterion("transparent-conductor").judge(dos, EDOS_GRID, np.ones(N))
    for row, values in enumerate(dos.tolist()):
        below, above = best_gap(values), best_gap(values[::-1])
        fermi = (values[63] + values[64]) / 2
        is_one = below is not None and above is not None and fermi >= 1.0
        assert verdicts.is_positive[row] == is_one
        if is_one:
            worse = min(emptiness(values, below), emptiness(values[::-1], above), fermi - 1.0)
            assert verdicts.score[row] == pytest.approx(worse)
        else:
            assert verdicts.score[row] < 0.0
    assert 15 < verdicts.is_positive.sum() < N - 50
    assert verdicts.features.keys() == {
        "vb_gap.is_gap",
        "cb_gap.is_gap",
        "dos_at_fermi",
        "vb_gap.score",
        "cb_gap.score",
    }


def slope_by_normal_equations(values: list[float]) -> float:
    """d ln(DOS)/dE from the four bins at E_F, by Cramer's rule."""
    points = [((i - 63.5) * WIDTH, values[i]) for i in range(62, 66)]
    n = len(points)
    sx, sy = sum(x for x, _ in points), sum(y for _, y in points)
    sxx, sxy = sum(x * x for x, _ in points), sum(x * y for x, y in points)
    slope = (n * sxy - sx * sy) / (n * sxx - sx * sx)
    return slope / (sy / n) if sy > 0 else 0.0


def test_steep_edges_have_the_slope_of_a_straight_line():
    dos = edos()
    verdicts = find_criterion("steep-edge").judge(dos, EDOS_GRID, np.ones(N))
    for row, values in enumerate(dos.tolist()):
        slope, fermi = slope_by_normal_equations(values), (values[63] + values[64]) / 2
        assert verdicts.features["slope_at_fermi"][row] == pytest.approx(slope, abs=1e-9)
        assert verdicts.is_positive[row] == (abs(slope) >= 5.0 - 1e-12 and fermi >= 1.0)
        assert verdicts.score[row] == pytest.approx(min(abs(slope) / 5.0, fermi) - 1.0, abs=1e-9)
    assert 15 < verdicts.is_positive.sum() < N - 50


def ao_gap(values: list[float], n_atoms: int) -> tuple[float, float] | None:
    """Edges in cm^-1 of the widest empty range with three modes below it, by counting."""
    occupied = [v > 0 and v >= 0.05 * max(values) for v in values]
    best = None
    for first in range(1, len(values)):
        if occupied[first] or not occupied[first - 1]:
            continue
        end = first
        while end < len(values) and not occupied[end]:
            end += 1
        if end == len(values):
            continue
        below = 3 * n_atoms * sum(values[:first]) / sum(values)
        if abs(below - 3) <= 0.5 and (best is None or end - first > best[1] - best[0]):
            best = first, end
    return None if best is None else (-310.0 + 20.0 * best[0], -310.0 + 20.0 * best[1])


def test_phonon_gaps_are_as_wide_as_the_acoustic_branches():
    dos, n_atoms = phdos()
    verdicts = find_criterion("phonon-gap").judge(dos, PHDOS_GRID, n_atoms)
    for row, values in enumerate(dos.tolist()):
        gap = ao_gap(values, int(n_atoms[row]))
        ratio = 0.0 if gap is None or gap[0] <= 0 else (gap[1] - gap[0]) / gap[0]
        imaginary = sum(values[:15]) / sum(values)
        assert verdicts.features["ao_gap.ratio"][row] == pytest.approx(ratio)
        assert verdicts.features["imaginary_share"][row] == pytest.approx(imaginary, abs=1e-12)
        assert verdicts.is_positive[row] == (ratio >= 1.0 and imaginary <= 0.01)
        excess = ratio - 1.0
        score = excess * (1.0 - imaginary / 0.01) if excess > 0 else excess
        assert verdicts.score[row] == pytest.approx(score, abs=1e-9)
    assert 15 < verdicts.is_positive.sum() < N - 50


@pytest.mark.parametrize("name", criterion_names())
def test_a_positive_has_the_better_score_and_a_verdict_depends_on_its_own_spectrum(name):
    criterion = find_criterion(name)
    if criterion.spectra == "edos":
        dos, n_atoms, grid = edos(600, 7), np.arange(600) % 9 + 1, EDOS_GRID
    else:
        dos, n_atoms = phdos(600, 7)
        grid = PHDOS_GRID
    verdicts = criterion.judge(dos, grid, n_atoms)
    assert not verdicts.refusals
    assert np.isfinite(verdicts.score).all()
    assert verdicts.score[verdicts.is_positive].min() >= 0.0
    assert verdicts.score[~verdicts.is_positive].max() <= 0.0
    order = np.random.default_rng(0).permutation(600)
    mixed = criterion.judge(dos[order].astype(np.float32), grid, n_atoms[order])
    assert (mixed.is_positive == verdicts.is_positive[order]).mean() > 0.99  # but for rounding
    alone = criterion.judge(dos[5:6], grid, n_atoms[5:6])
    assert alone.score[0] == pytest.approx(verdicts.score[5])
    assert criterion.judge(dos[:0], grid, n_atoms[:0]).score.shape == (0,)


def test_every_shipped_criterion_says_what_it_is_for_and_who_says_so():
    for name in criterion_names():
        criterion = find_criterion(name)
        if name in ("vb-gap", "cb-gap"):
            assert "Kong" in type(criterion).__doc__
            continue
        assert len(criterion.definition()["description"]) > 100
        assert len(criterion.definition()["source"]) > 50


# --- features -------------------------------------------------------------------------------


def test_features_are_finite_for_any_spectrum():
    rng = np.random.default_rng(5)
    for kind, grid, measure in (
        ("edos", EDOS_GRID, EdosMeasure()),
        ("phdos", PHDOS_GRID, PhdosMeasure()),
    ):
        dos = rng.exponential(size=(50, grid.size)) * rng.integers(0, 2, (50, grid.size))
        dos[0], dos[1], dos[2], dos[3] = 0.0, 100.0, 0.5, 0.0
        dos[3, 0] = 1.0
        of_spectra = measured(dos, grid, np.arange(50) + 1, measure)
        for name, feature in FEATURES[kind].items():
            values = feature.of(of_spectra)
            assert values.shape == (50,), name
            assert np.isfinite(values).all(), name


def test_features_of_a_gap_say_where_the_range_is():
    dos = np.full((2, 128), 5.0)
    dos[0, 32:48] = 0.25  # -2 to -1 eV
    of_spectra = measured(dos, EDOS_GRID, [1, 1], EdosMeasure())
    values = {name: f.of(of_spectra)[0] for name, f in FEATURES["edos"].items()}
    assert values["vb_gap.is_gap"]
    assert (values["vb_gap.lower_edge"], values["vb_gap.upper_edge"]) == (-2.0, -1.0)
    assert (values["vb_gap.width"], values["vb_gap.max_dos"]) == (1.0, 0.25)
    assert values["vb_gap.score"] == pytest.approx(0.75)
    assert values["cb_gap.width"] == 1.0  # the same range is the nearest miss
    assert values["dos_at_fermi"] == 5.0
    assert values["valence_states"] == pytest.approx(4 * 5.0 - 4.75)
    assert values["conduction_states"] == 20.0
    without = {name: f.of(of_spectra)[1] for name, f in FEATURES["edos"].items()}
    assert (without["vb_gap.width"], without["vb_gap.max_dos"]) == (0.0, 5.0)
    assert without["vb_gap.lower_edge"] == without["vb_gap.upper_edge"] == -4.0
    assert without["cb_gap.lower_edge"] == without["cb_gap.upper_edge"] == 4.0


def test_the_largest_dos_is_of_the_cell_where_the_threshold_is_for_an_atom():
    dos = np.full((1, 128), 20.0)
    dos[0, 32:48] = 2.0  # of four atoms
    measure = EdosMeasure.model_validate({"gap": {"per_atom": True}})
    of_spectra = measured(dos, EDOS_GRID, [4], measure)
    feature = FEATURES["edos"]["vb_gap.max_dos"]
    assert feature.unit == "states/eV/cell"
    assert FEATURES["edos"]["vb_gap.is_gap"].of(of_spectra)[0]
    assert feature.of(of_spectra)[0] == pytest.approx(2.0)


def test_the_thermopower_is_motts():
    """Of a DOS that grows by 8 per eV about 4 states/eV, by the constants of CODATA 2018."""
    dos = 4.0 + 8.0 * EDOS_GRID.centers.clip(-0.25, 0.25)
    of_spectra = measured(dos[None], EDOS_GRID, [1], EdosMeasure())
    slope = FEATURES["edos"]["slope_at_fermi"].of(of_spectra)[0]
    assert slope == pytest.approx(2.0)
    k_b, e = 1.380649e-23, 1.602176634e-19
    expected = -(math.pi**2) / 3 * k_b**2 * 300.0 / e * (2.0 / e)  # V/K
    assert FEATURES["edos"]["mott_seebeck"].of(of_spectra)[0] == pytest.approx(1e6 * expected)


def test_a_fine_grid_gives_the_same_features_of_a_smooth_dos():
    fine = EnergyGrid(start=-4.0, width=0.0125, size=640)
    dos = 3.0 + 2.0 * np.sin(fine.centers)
    coarse = dos.reshape(128, 5).mean(axis=1)
    for name in ("slope_at_fermi", "dos_at_fermi", "valence_states"):
        of = FEATURES["edos"][name].of
        here = of(measured(coarse[None], EDOS_GRID, [1], EdosMeasure()))[0]
        there = of(measured(dos[None], fine, [1], EdosMeasure()))[0]
        assert here == pytest.approx(there, rel=2e-3), name


def test_features_of_phonons_are_those_of_the_phonon_module():
    dos, n_atoms = phdos(50)
    of_spectra = measured(dos, PHDOS_GRID, n_atoms, PhdosMeasure())
    expected = heat_capacities(dos, PHDOS_GRID, n_atoms) / n_atoms
    np.testing.assert_allclose(FEATURES["phdos"]["heat_capacity"].of(of_spectra), expected)
    top = FEATURES["phdos"]["max_frequency"].of(of_spectra)
    for row, values in enumerate(dos.tolist()):
        last = max(i for i, v in enumerate(values) if v >= 0.05 * max(values))
        assert top[row] == -310.0 + 20.0 * (last + 1)


def test_other_spectra_are_refused():
    with pytest.raises(ScreeningError, match=r"needs a grid in eV, not in cm\^-1"):
        find_criterion("steep-edge").judge(np.ones((1, 66)), PHDOS_GRID, [1])
    with pytest.raises(ScreeningError, match=r"phonon DOS needs a grid in cm\^-1, not in eV"):
        find_criterion("phonon-gap").judge(np.ones((1, 128)), EDOS_GRID, [1])
    with pytest.raises(ScreeningError, match="needs energies in eV"):
        find_criterion("vb-gap").judge(np.ones((1, 66)), PHDOS_GRID, [1])


@pytest.mark.slow
@pytest.mark.data
def test_what_springs_find_of_the_phonon_gaps_of_the_labels(reference_data):
    """The figures of docs/criteria.md."""
    table = pq.read_table(reference_data / "phdos_jarvis.parquet").to_pylist()
    crystals = []
    for row in table:
        lattice, coords = (np.reshape(row[name], (-1, 3)) for name in ("lattice", "frac_coords"))
        crystals.append(Crystal(lattice, coords, row["species"]))
    labels, n_atoms = np.array([r["phdos"] for r in table]), [r["nsites"] for r in table]
    predicted = SpectrumPredictor.load("springs-phdos", "cpu").predict(crystals)
    assert not predicted.failures
    criterion = find_criterion("phonon-gap")
    true = criterion.judge(labels, PHDOS_GRID, n_atoms)
    called = criterion.judge(predicted.values, predicted.grid, n_atoms)
    assert (len(table), sum(r["split"] == "train" for r in table)) == (605, 539)
    assert (true.is_positive.sum(), called.is_positive.sum()) == (18, 4)
    assert (true.is_positive & called.is_positive).sum() == 4
    assert true.is_positive[np.argsort(-called.score)[:20]].sum() == 13
    ratios = [v.features["ao_gap.ratio"] for v in (called, true)]
    both = (ratios[0] > 0) & (ratios[1] > 0)
    assert np.median(ratios[0][both] / ratios[1][both]) == pytest.approx(0.52, abs=0.01)
