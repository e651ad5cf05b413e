"""Validation with a DOS that is a formula instead of DFT output (see `analytic_dos`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure
from pymatgen.electronic_structure.dos import Dos
from scipy.stats import wasserstein_distance

from db.open import open_store
from models.errors import ModelError
from models.spectra.spectrum import EDOS_GRID
from screening.classification import Group, Sample
from screening.errors import ScreeningError
from tests.workflows.analytic_dos import (
    EFERMI,
    RECIPE,
    AnalyticDosMaker,
    document,
    free_electrons,
)
from tests.workflows.screened_run import (
    candidate,
    crystal,
    plan_validation,
    put_prediction,
    put_run,
    validation,
    with_gap,
)
from workflows.dos.document import SourceFacts
from workflows.dos.engines import dos_maker
from workflows.dos.gpaw.maker import GpawDosMaker
from workflows.hardware import UnfitError
from workflows.local import validate_here
from workflows.metrics import run_metrics
from workflows.plan import (
    DRAWN_IN_DOMAIN,
    Choice,
    choose_validation,
    plan_cost,
    record_plan,
)
from workflows.validation import (
    JOB_FAILED,
    ValidationFlowMaker,
    key_of,
    store_failure,
    store_validation,
    validation_of,
)


def materials(n_positive=4, n_negative=8):
    names = [f"p-{i}" for i in range(n_positive)] + [f"n-{i}" for i in range(n_negative)]
    return {name: crystal(i) for i, name in enumerate(names)}


def plan(store, run, **options):
    return plan_validation(store, run, "gpaw", RECIPE, **options)


def ids(plan):
    return [c.material_id for c in plan.todo]


POSITIVES = ["p-2", "p-0", "p-3", "p-1"]  # best first


@pytest.fixture
def run(store):
    return put_run(store, materials(), POSITIVES)


# what is chosen


def test_positives_come_first_and_the_best_before_the_others(store, run):
    chosen = ids(plan(store, run, n_random=3))
    assert chosen[:4] == POSITIVES
    assert len(set(chosen[4:])) == 3
    assert all(name.startswith("n-") for name in chosen[4:])
    assert all(c.structure for c in plan(store, run).todo)


def test_random_negatives_belong_to_the_run(store, run):
    assert ids(plan(store, run, n_random=5)) == ids(plan(store, run, n_random=5))
    draws = set()
    for i in range(5):
        other = put_run(store, materials(), POSITIVES, run_id=f"other-{i}")
        draws.add(tuple(ids(plan(store, other, n_random=5))[4:]))
    assert len(draws) > 1


def test_fewer_random_negatives_are_the_first_of_more(store, run):
    few, many = ids(plan(store, run, n_random=2)), ids(plan(store, run, n_random=7))
    assert many[: len(few)] == few


def test_limit_takes_the_best_positives_and_all_random_negatives(store, run):
    chosen = ids(plan(store, run, n_random=3, limit=2))
    assert chosen[:2] == POSITIVES[:2]
    assert len(chosen) == 5
    assert not {"p-1", "p-3"} & set(chosen)
    assert len(plan(store, run, n_random=3, limit=0).todo) == 3


def test_random_positives_belong_to_the_run_and_few_are_the_first_of_more(store, run):
    one, three = (ids(plan(store, run, n_random=0, limit=n, strategy="random")) for n in (1, 3))
    assert three[:1] == one
    assert set(three) < set(POSITIVES)
    draws = set()
    for i in range(8):
        other = put_run(store, materials(), POSITIVES, run_id=f"other-{i}")
        draws.add(tuple(ids(plan(store, other, n_random=0, limit=2, strategy="random"))))
    assert len(draws) > 2
    assert sorted(ids(plan(store, run, n_random=0, strategy="random"))) == sorted(POSITIVES)
    with pytest.raises(ScreeningError, match="--strategy worst: use best, probability"):
        plan(store, run, strategy="worst")


def test_more_random_negatives_than_there_are(store, run):
    assert sorted(ids(plan(store, run, n_random=1000))) == sorted(materials())
    assert ids(plan(store, run, n_random=0)) == POSITIVES


def test_a_finished_calculation_is_used_again_by_another_run_and_material(store, run):
    done = validation(candidate("run-1", "p-0", crystal(0)), True, recipe=RECIPE)
    store.upsert_validations([done])
    other = put_run(
        store, {"same": crystal(0), "new": crystal(99)}, ["same", "new"], run_id="run-2"
    )
    again = plan(store, other)
    assert ids(again) == ["new"]
    assert again.reused == 1
    (shared,) = store.validations(run_id="run-2")
    assert shared.material_id == "same"
    assert shared.run_ids == ["run-2"]  # run-1 never asked for the material "same"
    assert shared.spectrum == done.spectrum
    assert (shared.state, shared.is_positive) == ("done", True)


def test_the_same_material_of_another_run_shares_the_document(store, run):
    done = validation(candidate("run-1", "p-0", crystal(0)), True, recipe=RECIPE)
    store.upsert_validations([done])
    other = put_run(store, {"p-0": crystal(0)}, ["p-0"], run_id="run-2")
    assert plan(store, other).todo == ()
    (shared,) = store.validations()
    assert shared.run_ids == ["run-1", "run-2"]


@pytest.mark.parametrize("changes", [{"engine": "vasp"}, {"recipe": "another"}])
def test_another_engine_or_recipe_is_another_calculation(store, run, changes):
    done = validation(candidate("run-1", "p-0", crystal(0)), True, **({"recipe": RECIPE} | changes))
    store.upsert_validations([done])
    assert "p-0" in ids(plan(store, run))


def test_a_structure_that_changed_is_calculated(store, run):
    done = validation(candidate("run-1", "p-0", crystal(50)), True, recipe=RECIPE)
    store.upsert_validations([done])
    assert "p-0" in ids(plan(store, run))


def test_a_failed_calculation_is_repeated(store, run):
    failed = validation(candidate("run-1", "p-0", crystal(0)), None, recipe=RECIPE)
    store.upsert_validations([failed])
    assert "p-0" in ids(plan(store, run))


def test_what_a_launchpad_has_is_not_submitted_again(store, run):
    document = candidate("run-1", "p-0", crystal(0))
    queued = {"recipe": RECIPE, "state": "queued", "error": None}
    store.upsert_validations([validation(document, None, **queued, job_uuids=["uuid"])])
    assert "p-0" not in ids(plan(store, run))
    store.upsert_validations([validation(document, None, **queued)])
    assert "p-0" in ids(plan(store, run))  # nothing was submitted


def test_a_result_that_comes_while_a_plan_is_read_stays(store, run):
    document = candidate("run-1", "p-0", crystal(0))
    queued = {"recipe": RECIPE, "state": "queued", "error": None, "run_ids": ["run-0"]}
    store.upsert_validations([validation(document, None, **queued, job_uuids=["uuid"])])
    chosen = choose_validation(store, run, AnalyticDosMaker())
    assert [(v.material_id, v.state) for v in chosen.shared] == [("p-0", "queued")]
    store.upsert_validations(
        [validation(document, True, recipe=RECIPE, run_ids=["run-0", "run-3"])]
    )
    (done,) = store.validations()
    record_plan(store, chosen)
    (stored,) = store.validations()
    assert stored == done.model_copy(update={"run_ids": ["run-0", "run-1", "run-3"]})
    assert stored.spectrum


def test_two_materials_with_one_structure_are_calculated_once(store, tmp_path, db):
    twins = {"a": crystal(0), "b": crystal(0), "c": crystal(1)}
    run = put_run(store, twins, ["a", "b", "c"])
    planned = plan(store, run)
    assert ids(planned) == ["a", "c"]
    log = tmp_path / "log"
    maker = ValidationFlowMaker(db=db, dos_maker=AnalyticDosMaker(log=str(log)))
    for todo in planned.todo:
        validate_here(maker, todo)
    assert len(log.read_text().splitlines()) == 2
    found = {v.material_id: v for v in store.validations(run_id="run-1", state="done")}
    assert set(found) == {"a", "b", "c"}
    assert found["b"].spectrum == found["a"].spectrum
    assert plan(store, run).todo == ()


# from a DOS to a document


def key(material_id="p-0", number=0):
    return key_of(candidate("run-1", material_id, crystal(number)), AnalyticDosMaker())


def test_a_free_electron_dos_on_the_grid(store, run):
    found = validation_of(store, "run-1", key(), free_electrons(crystal(0)))
    # the average of sqrt(E - E0) over a bin, integrated by hand
    edges = EDOS_GRID.edges + 6.0
    expected = np.diff(edges**1.5) * (2 / 3) / EDOS_GRID.width
    np.testing.assert_allclose(found.spectrum, expected, rtol=1e-4)
    assert (found.vbm, found.cbm, found.band_gap) == (EFERMI, EFERMI, 0.0)
    assert not found.is_positive


@pytest.mark.parametrize("gap", [0.5, 3.1])
def test_the_band_gap_of_an_insulator_is_cut_out(store, run, gap):
    metal = validation_of(store, "run-1", key(), free_electrons(crystal(0)))
    insulator = validation_of(store, "run-1", key(), free_electrons(crystal(0), gap=gap))
    np.testing.assert_allclose(insulator.spectrum, metal.spectrum, rtol=1e-4)
    assert insulator.band_gap == pytest.approx(gap)
    assert insulator.cbm - insulator.vbm == pytest.approx(gap)


def dos_with_gap(lower, upper, structure):
    """5 states/eV/cell, and none from `lower` to `upper` (eV from the Fermi level)."""
    energies = np.round(np.arange(-5.0, 5.0, 0.005), 6)
    dos = np.where((energies > lower) & (energies < upper), 0.0, 5.0)
    return document(structure, energies + EFERMI, dos, EFERMI, EFERMI)


@pytest.mark.parametrize(
    ("lower", "upper", "is_gap"),
    [(-2.0, -0.5, True), (-1.2, -0.5, False), (-2.0, -0.1, False), (-3.0, -1.5, False)],
)
def test_the_verdict_is_by_the_four_criteria(store, run, lower, upper, is_gap):
    found = validation_of(store, "run-1", key(), dos_with_gap(lower, upper, crystal(0)))
    assert found.is_positive is is_gap
    assert found.gap.is_gap is is_gap
    if is_gap:
        assert found.gap.upper_edge == pytest.approx(upper, abs=EDOS_GRID.width)
        assert found.gap.width == pytest.approx(upper - lower, abs=EDOS_GRID.width)


@pytest.mark.parametrize(("lower", "binned"), [(-1.54, False), (-1.7, True)])
def test_a_verdict_that_depends_on_the_resolution_is_a_warning(store, run, lower, binned):
    """1.01 eV are a gap, but the bins that are empty throughout are 0.9375 eV."""
    found = validation_of(store, "run-1", key(), dos_with_gap(lower, -0.53, crystal(0)))
    assert found.is_positive is found.gap.is_gap is binned
    assert found.gap.is_gap_fine is True
    assert any("depends on the resolution" in text for text in found.warnings) is not binned
    if not binned:
        assert "no gap in bins of 62.5 meV, a gap from -1.54 to -0.54 eV" in found.warnings[-1]


@pytest.mark.parametrize(
    ("of_source", "gap", "warning"),
    [
        (0.0, 0.3, "a band gap of 0.30 eV where the source has none: bands may cross between"),
        (0.8, 0.0, "no band gap where the source has one of 0.80 eV"),
        (0.8, 0.3, None),
        (0.0, 0.0, None),
        (None, 0.3, None),
    ],
)
def test_a_metal_where_the_source_has_an_insulator_is_a_warning(
    store, run, of_source, gap, warning
):
    store.upsert_candidates([candidate("run-1", "p-0", crystal(0), band_gap=of_source)])
    found = validation_of(store, "run-1", key(), free_electrons(crystal(0), gap=gap))
    said = [text for text in found.warnings if "the source" in text]
    assert [text[: len(warning or "")] for text in said] == ([warning] if warning else [])


@pytest.mark.parametrize("gap", [0.0, 1.3])
def test_the_own_grid_of_a_dos_has_its_resolution(gap):
    made = free_electrons(crystal(0), gap=gap)
    grid = made.own_grid
    assert (grid.start, grid.size, grid.edges[-1]) == (-4.0, 800, 4.0)
    assert grid.width == pytest.approx(0.01)
    fine, coarse = made.spectrum(grid), made.spectrum()
    assert fine.integral == pytest.approx(coarse.integral)
    thin = made.model_copy(update={"energies": made.energies[::20], "dos": made.dos[::20]})
    assert thin.own_grid == EDOS_GRID


def test_the_verdict_is_by_the_criteria_of_the_run(store):
    narrow = {"min_width": 0.5}
    put_run(store, materials(), POSITIVES, criteria=narrow)
    found = validation_of(store, "run-1", key(), dos_with_gap(-1.2, -0.5, crystal(0)))
    assert found.is_positive
    assert found.gap.criteria["min_width"] == 0.5


def test_errors_of_the_prediction_against_an_independent_calculation(store, run):
    rng = np.random.default_rng(3)
    predicted = rng.random(EDOS_GRID.size).astype(np.float32)
    put_prediction(store, candidate("run-1", "p-0", crystal(0)), predicted)
    found = validation_of(store, "run-1", key(), free_electrons(crystal(0)))
    true = np.array(found.spectrum)
    total = sum(abs(p - t) for p, t in zip(predicted, true, strict=True))
    assert found.mae == pytest.approx(total / 128)
    centers = EDOS_GRID.centers
    assert found.wd == pytest.approx(wasserstein_distance(centers, centers, predicted, true))
    assert found.prediction_model_id == run.model_id


def test_an_empty_prediction_has_no_shape_to_compare(store, run):
    put_prediction(store, candidate("run-1", "p-0", crystal(0)), np.zeros(EDOS_GRID.size))
    found = validation_of(store, "run-1", key(), free_electrons(crystal(0)))
    assert found.wd is None
    assert found.mae == pytest.approx(np.mean(found.spectrum))


def test_without_a_prediction_there_are_no_errors(store, run):
    found = validation_of(store, "run-1", key(), free_electrons(crystal(0)))
    assert (found.mae, found.wd, found.prediction_model_id) == (None, None, None)


def test_the_raw_dos_is_a_pymatgen_dos_with_what_is_needed_to_repeat_it(store, run):
    original = free_electrons(crystal(0), gap=1.0)
    raw = store.raw_dos(validation_of(store, "run-1", key(), original).raw_dos)
    dos = Dos.from_dict(raw)
    np.testing.assert_array_equal(dos.energies, original.energies)
    np.testing.assert_array_equal(dos.get_densities(), original.dos)
    assert dos.efermi == original.efermi
    rest = raw["document"]
    assert rest["settings"] == original.settings
    assert rest["engine_version"] == original.engine_version
    assert type(original)(**rest, energies=dos.energies, dos=dos.get_densities()) == original


def test_a_dos_that_misses_the_grid(store, run):
    short = free_electrons(crystal(0)).model_copy(update={"cbm": EFERMI + 3.0, "band_gap": 3.0})
    with pytest.raises(ModelError, match="DOS covers"):
        validation_of(store, "run-1", key(), short)


# the job


def call(db, material_id, dos):
    """The body of the job, as a worker calls it."""
    from workflows.stores import store_reference

    return store_validation.original("run-1", store_reference(db), key(material_id), dos)


def test_storing_twice_is_storing_once(store, run, db):
    dos = free_electrons(crystal(0))
    first = call(db, "p-0", dos)
    (before,) = store.validations()
    assert call(db, "p-0", dos.model_dump(mode="json")) == first
    assert (first["state"], first["is_positive"]) == ("done", False)
    (after,) = store.validations()
    times = {"updated_at"}
    assert after.model_dump(exclude=times) == before.model_dump(exclude=times)
    assert len(list(store.blobs())) == 1


def test_a_failure_is_recorded_with_its_reason(store, run, db):
    assert call(db, "p-0", None) == {"state": "failed", "error": JOB_FAILED}
    (found,) = store.validations(run_id="run-1", state="failed")
    assert found.error == JOB_FAILED
    assert (found.material_id, found.engine, found.recipe) == ("p-0", "gpaw", RECIPE)

    short = free_electrons(crystal(0)).model_copy(update={"cbm": EFERMI + 3.0, "band_gap": 3.0})
    outcome = call(db, "p-0", short)
    assert "window" in outcome["error"] or "DOS" in outcome["error"]
    assert "\n" not in outcome["error"]

    call(db, "p-0", free_electrons(crystal(0)))
    (found,) = store.validations()
    assert (found.state, found.error) == ("done", None)


def test_a_worker_without_the_criterion_leaves_the_dos_to_another(store, run, db):
    gone = {"criterion": {"name": "gone", "class": "somebody.elses:Criterion"}}
    store.put_run(run.model_copy(update={"parameters": run.parameters | gone}))
    with pytest.raises(UnfitError, match="gone"):
        call(db, "p-0", free_electrons(crystal(0)))
    assert list(store.validations()) == []


def test_a_late_failure_does_not_undo_a_result(store, run):
    store.upsert_validations([validation_of(store, "run-1", key(), free_electrons(crystal(0)))])
    store_failure(store, "run-1", key(), "worker was lost")
    (found,) = store.validations()
    assert (found.state, found.error) == ("done", None)


def test_a_long_reason_is_one_line_of_bounded_length(store, run):
    store_failure(store, "run-1", key(), "line\n" * 1000)
    (found,) = store.validations()
    assert found.error.startswith("line line")
    assert len(found.error) <= 500


# one candidate in this process


def first(store, run):
    return plan(store, run, n_random=0).todo[0]


def test_a_candidate_from_its_structure_to_the_verdict(store, run, db):
    todo = first(store, run)
    outcome = validate_here(ValidationFlowMaker(db=db, dos_maker=AnalyticDosMaker()), todo)
    assert outcome.keys() == {"state", "is_positive", "criterion", "gap"}
    assert (outcome["state"], outcome["is_positive"]) == ("done", False)
    assert outcome["gap"].keys() == {"lower_edge", "upper_edge", "width", "is_lower_bound"}
    (found,) = store.validations(run_id="run-1")
    assert found.material_id == todo.material_id == "p-2"
    assert found.structure_hash == todo.structure_hash
    assert found.nsites == 1
    assert plan(store, run, n_random=0).reused == 1


@dataclass
class Broken(AnalyticDosMaker):
    error: BaseException | None = None

    def make(self, structure, material_id=None, source=None):
        raise self.error


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (AnalyticDosMaker(failing="Al"), "Al: the density did not converge"),
        (AnalyticDosMaker(refused="Al"), "no data set for Al"),
        (Broken(error=OSError("no space left on device")), "OSError: no space left on device"),
        (Broken(error=ZeroDivisionError("float")), "ZeroDivisionError: float"),
    ],
)
def test_whatever_fails_is_recorded_and_not_raised(store, run, db, maker, reason):
    outcome = validate_here(ValidationFlowMaker(db=db, dos_maker=maker), first(store, run))
    assert outcome == {"state": "failed", "error": reason}
    (found,) = store.validations(run_id="run-1")
    assert (found.state, found.error) == ("failed", reason)


LAST_LINE = "out of memory " + 600 * "!"


@pytest.fixture
def crashing_gpaw(monkeypatch):
    """GPAW that leaves a log and dies."""

    def run_limited(command, limit, log, environment):
        log.write_text(f"iter 1\n{LAST_LINE}\n")
        return -9

    monkeypatch.setattr("workflows.dos.gpaw.calculation.missing", list)
    monkeypatch.setattr("workflows.dos.gpaw.calculation.run_limited", run_limited)


@pytest.mark.parametrize("is_full", [False, True])
def test_the_log_of_a_failure_is_kept_where_the_reason_says(
    store, run, db, crashing_gpaw, monkeypatch, tmp_path, is_full
):
    monkeypatch.chdir(tmp_path)
    if is_full:
        monkeypatch.setattr("shutil.copyfile", no_space)
    maker = ValidationFlowMaker(db=db, dos_maker=GpawDosMaker())
    validate_here(maker, first(store, run))
    (found,) = store.validations(run_id="run-1")
    reason, _, log = found.error.partition(" (log: ")
    assert reason.startswith("GPAW ended with status -9: out of memory !!!")
    if is_full:
        assert not log
    else:
        assert Path(log.removesuffix(")")).read_text() == f"iter 1\n{LAST_LINE}\n"
        assert Path(log).parent == tmp_path / "failed-calculations"


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_an_interrupt_is_not_a_failure(store, run, db):
    maker = ValidationFlowMaker(db=db, dos_maker=Broken(error=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        validate_here(maker, first(store, run))
    assert list(store.validations()) == []


def test_flow_of_a_failed_calculation_still_stores(store, run, db):
    maker = ValidationFlowMaker(db=db, dos_maker=AnalyticDosMaker(failing="Al"))
    run_locally(maker.make(first(store, run)), log=False, store=JobStore(MemoryStore()))
    (found,) = store.validations(run_id="run-1")
    assert (found.state, found.error) == ("failed", JOB_FAILED)


# makers


def test_makers_of_both_engines():
    assert dos_maker("gpaw", preset="fast").preset == "fast"
    assert dos_maker("vasp", relax=True).relax
    assert dos_maker("gpaw").recipe != dos_maker("gpaw", preset="fast").recipe


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("abinit", {}, "unknown engine 'abinit'; use gpaw or vasp"),
        ("vasp", {"preset": "fast"}, "vasp has no option preset"),
        ("gpaw", {"preset": "slow"}, "gpaw: no GPAW preset 'slow'"),
        ("gpaw", {"lanthanides": "frozen"}, "gpaw: lanthanides as 'frozen'; use stand-ins or own"),
        ("vasp", {"lanthanides": "own"}, "vasp has no option lanthanides"),
    ],
)
def test_wrong_engines_and_options(engine, options, message):
    with pytest.raises(ScreeningError, match=message):
        dos_maker(engine, **options)


# precision and recall


def put_verdicts(store, counts, n_screened=1000, run_id="run-1", **changes):
    """A run whose validations give a confusion matrix, through real documents."""
    structures, verdicts, positives = {}, [], []
    for name, (predicted, true) in {
        "tp": (True, True),
        "fp": (True, False),
        "fn": (False, True),
        "tn": (False, False),
    }.items():
        for i in range(counts[name]):
            material_id = f"{name}-{i}"
            structures[material_id] = crystal(len(structures))
            verdicts.append((material_id, true))
            positives += [material_id] if predicted else []
    run = put_run(store, structures, positives, run_id=run_id)
    run = run.model_copy(update={"counts": {"screened": n_screened}})
    store.put_run(run)
    store.upsert_validations(
        validation(candidate(run_id, m, structures[m]), true, **changes) for m, true in verdicts
    )
    return run


MAT2SPEC = {"tp": 15, "fp": 17, "fn": 0, "tn": 49}
GATGNN = {"tp": 3, "fp": 20, "fn": 12, "tn": 46}


def only_metrics(store, run):
    (found,) = run_metrics(store, store.run(run.run_id))
    return found


@pytest.mark.parametrize(
    ("counts", "precision", "recall"), [(MAT2SPEC, 0.47, 1.00), (GATGNN, 0.13, 0.20)]
)
def test_table_2_of_the_paper(store, counts, precision, recall):
    run = put_verdicts(store, counts)
    found = only_metrics(store, run)
    assessment = found.assessment
    assert assessment.counts == counts
    assert round(assessment.precision.value, 2) == precision
    assert round(assessment.recall.value, 2) == recall
    assert (found.engine, found.recipe, found.undecided) == ("gpaw", "recipe-1", {})
    n_positive = counts["tp"] + counts["fp"]
    assert (assessment.positives.size, assessment.negatives.size) == (n_positive, 1000 - n_positive)
    words = f"predicted positives: all {n_positive}; predicted negatives: "
    assert assessment.design.startswith(words)


def test_recall_on_the_screened_set_weighs_the_random_negatives(store):
    run = put_verdicts(store, {"tp": 8, "fp": 2, "fn": 1, "tn": 9}, n_screened=110)
    assessment = only_metrics(store, run).assessment
    # 1 of 10 random negatives stands for 10 of 100
    assert assessment.screened_recall.value == pytest.approx(8 / (8 + 10))
    assert assessment.recall.value == pytest.approx(8 / 9)


def test_calculations_without_a_verdict_are_neither_positive_nor_negative(store):
    run = put_verdicts(store, {"tp": 3, "fp": 1, "fn": 0, "tn": 3})
    failed, waiting, _ = (
        validation(candidate("run-1", f"tp-{i}", crystal(i)), None) for i in range(3)
    )
    waiting = waiting.model_copy(update={"state": "queued"})
    refused = validation(candidate("run-1", "tn-0", crystal(4)), False)
    refused = refused.model_copy(update={"is_positive": None})  # calculated, but not judged
    store.upsert_validations([failed, waiting, refused])
    found = only_metrics(store, run)
    assert found.undecided == {"failed": 1, "not judged": 1, "queued": 1}
    assert found.assessment.positives.validated == Sample(1, 1, undecided=2)
    assert found.assessment.negatives.validated == Sample(0, 2, undecided=1)
    document = found.as_dict()
    assert document["undecided"] == found.undecided
    assert document["precision"]["value"] is None
    assert (document["precision"]["least"], document["precision"]["most"]) == (0.25, 0.75)


def put_verdict(store, number, is_gap, name="p", run_id="run-1"):
    """As of the positive `number` of `materials`."""
    found = validation(
        candidate(run_id, f"{name}-{number}", crystal(number)), is_gap, recipe=RECIPE
    )
    store.upsert_validations([found])


def positives_of(store, run):
    return only_metrics(store, run).assessment.positives


def work_off(store, run, **options):
    """Plan and give all that is to be calculated a gap."""
    planned = plan(store, run, n_random=0, **options)
    for todo in planned.todo:
        put_verdict(store, int(todo.material_id[2:]), True)
    return planned


def test_the_best_positives_count_as_such(store, run):
    work_off(store, run, limit=2)
    assert positives_of(store, run) == Group(4, ranked=Sample(2, 0))


def test_best_positives_that_are_not_calculated_yet(store, run):
    plan(store, run, n_random=0, limit=2)
    put_verdict(store, 2, True)  # then it was interrupted
    assert positives_of(store, run) == Group(4, ranked=Sample(1, 0), missing=1)


def test_random_positives_count_as_such(store, run):
    work_off(store, run, limit=2, strategy="random")
    assert positives_of(store, run) == Group(4, drawn=Sample(2, 0))
    work_off(store, run, limit=3, strategy="random")
    assert positives_of(store, run) == Group(4, drawn=Sample(3, 0))


@pytest.mark.parametrize("order", [("best", "random"), ("random", "best")])
def test_a_material_chosen_in_both_ways_counts_as_chosen_by_rank(store, order):
    structures = materials(n_positive=12, n_negative=0)
    run = put_run(store, structures, sorted(structures))
    best = set(run.selection[:5])
    drawn = set(ids(plan(store, run, n_random=0, limit=6, strategy="random")))
    assert 0 < len(best & drawn) < 5
    run = put_run(store, structures, sorted(structures))  # nothing noted
    for strategy in order:
        work_off(store, run, limit={"best": 5, "random": 6}[strategy], strategy=strategy)
    expected = Group(12, ranked=Sample(5, 0), drawn=Sample(len(drawn - best), 0))
    assert positives_of(store, run) == expected
    work_off(store, run, limit=5)  # again
    assert positives_of(store, run) == expected


def test_positives_of_older_programs_count_as_chosen_by_rank(store, run):
    put_verdict(store, 0, True)
    put_verdict(store, 1, False)
    assert positives_of(store, run) == Group(4, ranked=Sample(1, 1))
    work_off(store, run, strategy="random")
    assert positives_of(store, run) == Group(4, ranked=Sample(1, 1), drawn=Sample(2, 0))


@pytest.fixture
def half_known(store):
    """A run whose model can know every other of its 12 positives and 24 negatives."""
    structures = materials(12, 24)
    run = put_run(store, structures, list(structures)[:12])
    candidates = store.candidates(run.run_id, with_structure=True)
    store.upsert_candidates(
        [
            c.model_copy(update={"out_of_domain": int(c.material_id[2:]) % 2 == 1})
            for c in candidates
        ]
    )
    return run


@pytest.mark.parametrize("among", [(True, False), (False, True), (True, False, True)])
def test_draws_in_the_domain_are_no_random_part_of_all(store, half_known, among):
    options = {"limit": 5, "n_random": 6, "strategy": "random"}
    chosen = {in_domain: set() for in_domain in among}
    for in_domain in among:
        planned = plan(store, half_known, in_domain=in_domain, **options)
        store.upsert_validations(
            [
                validation(todo, int(todo.material_id[2:]) % 2 == 0, recipe=RECIPE)
                for todo in planned.todo
            ]
        )
        chosen[in_domain] |= {*ids(planned), *(v.material_id for v in planned.shared)}
    found = only_metrics(store, half_known).assessment
    known, drawn = ({n for n in chosen[i] if n.startswith("p")} for i in (True, False))
    assert (len(known), len(drawn)) == (5, 5)
    n_drawn, n_confirmed = len(drawn - known), sum(int(n[2:]) % 2 == 0 for n in drawn - known)
    assert 0 < n_drawn < 5
    assert found.positives.ranked == Sample(5, 0)
    assert found.positives.drawn == Sample(n_confirmed, n_drawn - n_confirmed)
    others = [n for n in chosen[False] if n.startswith("n")]
    n_missed = sum(int(n[2:]) % 2 == 0 for n in others)
    assert found.negatives == Group(24, drawn=Sample(n_missed, 6 - n_missed))
    assert "5 of 12 by random draws in the domain" in found.design


def test_how_positives_were_chosen_is_a_matter_of_run_engine_and_recipe(store, run):
    work_off(store, run, limit=2, strategy="random")
    plan_validation(store, run, "vasp", RECIPE, limit=3)
    assert positives_of(store, run) == Group(4, drawn=Sample(2, 0))
    other = put_run(store, materials(), POSITIVES, run_id="run-2")
    plan(store, other, n_random=0, limit=4)
    (found,) = run_metrics(store, store.run("run-2"))
    assert found.assessment.positives == Group(4, ranked=Sample(2, 0), missing=2)
    assert store.run("run-1").model_copy(update={"parameters": {}}) == run.model_copy(
        update={"parameters": {}}
    )
    notes = store.run("run-1").parameters["validation_choices"]
    assert [(n["engine"], n["ranked"], len(n["drawn"])) for n in notes] == [
        ("gpaw", {}, 2),
        ("vasp", {"best": sorted(POSITIVES[:3])}, 0),
    ]


def test_plans_of_two_engines_at_once_are_both_noted(store, run):
    makers = {2: AnalyticDosMaker(), 3: GpawDosMaker()}
    plans = [choose_validation(store, run, maker, limit=n) for n, maker in makers.items()]
    changed = store.run("run-1").model_copy(update={"error": "what another process wrote"})
    store.put_run(changed)
    for chosen in plans:
        record_plan(store, chosen)
    for n, maker in makers.items():
        choice = Choice.of(store.run("run-1"), maker.engine, maker.recipe)
        assert choice.ranked == {"best": frozenset(POSITIVES[:n])}
    assert store.run("run-1").error == changed.error


@pytest.mark.parametrize("first", [0, 1])
def test_plans_of_one_engine_at_once_are_both_noted(store, run, db, monkeypatch, first):
    """One is written while the other is about to be, and chosen before either was."""
    maker = AnalyticDosMaker()
    of_two = [
        choose_validation(store, run, maker, n_random=0, **options)
        for options in ({"limit": 2}, {"limit": 3, "strategy": "random"})
    ]
    read, others = store.run, [of_two[1 - first]]

    def and_then(run_id):
        found = read(run_id)
        while others:
            with open_store(db) as other:
                record_plan(other, others.pop())
        return found

    monkeypatch.setattr(store, "run", and_then)
    record_plan(store, of_two[first])
    assert not others
    choice = Choice.of(store.run("run-1"), maker.engine, maker.recipe)
    assert choice.ranked == {"best": frozenset(POSITIVES[:2])}
    assert choice.drawn == {*of_two[1].chosen.positives}
    assert len(choice.drawn) == 3


@pytest.mark.parametrize("among_all_first", [False, True])
def test_draws_in_the_domain_and_among_all_at_once_are_told_apart(store, run, among_all_first):
    maker = AnalyticDosMaker()
    in_domain, among_all = (
        choose_validation(
            store, run, maker, n_random=2, limit=n, strategy="random", in_domain=n == 2
        )
        for n in (2, 3)
    )
    for chosen in (among_all, in_domain) if among_all_first else (in_domain, among_all):
        record_plan(store, chosen)  # before any calculation has ended
    choice = Choice.of(store.run("run-1"), maker.engine, maker.recipe)
    assert not choice.in_domain
    assert choice.taken_by("random") >= {*in_domain.chosen.positives, *among_all.chosen.positives}
    assert (choice.ranked.keys(), choice.n_random) == ({DRAWN_IN_DOMAIN}, 2)


# strategies


def put_probabilities(store, probabilities):
    """Of positives of `run-1`, by name."""
    known = store.candidates("run-1", material_ids=list(probabilities), with_structure=True)
    store.upsert_candidates(
        [c.model_copy(update={"probability": probabilities[c.material_id]}) for c in known]
    )


PROBABLE = {"p-2": 0.3, "p-0": 0.5, "p-3": 0.9, "p-1": 0.6}
ONE = 48.8  # s, what Al takes if nothing is known


def test_a_strategy_chooses_by_what_the_run_says(store, run):
    for strategy in ("probability", "uncertainty", "budget"):
        with pytest.raises(ScreeningError, match="needs probabilities"):
            plan(store, run, n_random=0, strategy=strategy, budget=1000)
    put_probabilities(store, PROBABLE)

    def chosen(**options):
        return ids(plan_dry(store, run, n_random=0, **options))

    assert chosen(strategy="probability", limit=2) == ["p-3", "p-1"]
    assert chosen(strategy="uncertainty", limit=2) == ["p-0", "p-1"]
    assert chosen(strategy="diverse") == POSITIVES  # all are of one family
    assert chosen(strategy="budget", budget=3.5 * ONE) == ["p-3", "p-1", "p-0"]


def plan_dry(store, run, **options):
    maker = AnalyticDosMaker()
    return choose_validation(store, run, maker, **options)


def test_the_best_of_each_family_comes_first(store):
    salt = Structure(Lattice.cubic(3), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    other = Structure(Lattice.cubic(3.1), ["Cs", "I"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structures = {"a": salt, "b": other, "c": crystal(0)}
    run = put_run(store, structures, ["a", "b", "c"])
    assert ids(plan_dry(store, run, n_random=0, strategy="diverse")) == ["a", "c", "b"]


def test_random_negatives_have_their_part_of_the_budget_first(store, run):
    planned = plan_dry(store, run, n_random=3, budget=5.5 * ONE)
    assert [c.is_positive for c in planned.todo] == [True, True, False, False, False]
    with pytest.raises(ScreeningError, match=r"5 random negatives take about 0.1 hours, all of"):
        plan_dry(store, run, n_random=5, budget=4 * ONE)
    with pytest.raises(ScreeningError, match="less than the cheapest"):
        plan_dry(store, run, n_random=3, budget=3.5 * ONE)


def test_a_budget_is_for_what_is_not_calculated_yet(store, run):
    first = work_off(store, run, budget=2.5 * ONE)
    assert ids(first) == POSITIVES[:2]
    put_run_again = store.run("run-1")
    assert ids(work_off(store, put_run_again, budget=1.5 * ONE)) == POSITIVES[2:3]
    assert positives_of(store, run) == Group(4, ranked=Sample(3, 0))
    assert ids(work_off(store, run, budget=9 * ONE)) == POSITIVES[3:]
    assert ids(work_off(store, run, budget=9 * ONE)) == []


def test_what_was_interrupted_goes_on_before_anything_new(store, run):
    put_probabilities(store, PROBABLE)
    options = {"strategy": "budget", "budget": 2.5 * ONE}
    assert ids(plan(store, run, n_random=0, **options)) == ["p-3", "p-1"]
    put_verdict(store, 3, True)  # then it was interrupted
    put_probabilities(store, PROBABLE | {"p-2": 0.99})  # which does not matter
    assert ids(plan(store, run, n_random=0, **options)) == ["p-1"]
    put_verdict(store, 1, None)  # it failed: it is repeated, and new ones are chosen
    assert ids(plan(store, run, n_random=0, **options)) == ["p-2", "p-1"]


def test_drawn_ones_stay_drawn_beside_any_strategy(store):
    structures = materials(n_positive=12, n_negative=0)
    run = put_run(store, structures, sorted(structures))
    drawn = set(ids(work_off(store, run, limit=6, strategy="random")))
    put_probabilities(store, {name: i / 12 for i, name in enumerate(sorted(structures))})
    by_probability = set(ids(work_off(store, run, limit=3, strategy="probability")))
    best = set(run.selection[:2])
    work_off(store, run, limit=2)
    ranked = best | {"p-7", "p-8", "p-9"}  # p-11 and p-10 sort before
    assert by_probability == ranked - best - drawn
    found = positives_of(store, run)
    assert found == Group(12, ranked=Sample(5, 0), drawn=Sample(len(drawn - ranked), 0))
    assert found.design == (
        f"5 of 12 by best and probability and {len(drawn - ranked)} of the other 7, drawn at random"
    )
    assert "the 5 best" in Group(12, ranked=Sample(5, 0)).design


def test_notes_of_older_programs_are_understood(store, run):
    note = {"engine": "gpaw", "recipe": RECIPE, "n_best": 2, "drawn": ["p-1"]}
    noted = run.model_copy(update={"parameters": run.parameters | {"validation_choices": [note]}})
    store.put_run(noted)
    for i in (2, 1):
        put_verdict(store, i, True)
    assert positives_of(store, store.run("run-1")) == Group(
        4, ranked=Sample(1, 0), drawn=Sample(1, 0), missing=1
    )
    work_off(store, store.run("run-1"), limit=3)
    assert positives_of(store, store.run("run-1")) == Group(
        4, ranked=Sample(3, 0), drawn=Sample(1, 0)
    )


def test_only_what_the_run_asked_for_counts(store):
    run = put_verdicts(store, {"tp": 2, "fp": 1, "fn": 1, "tn": 3})
    known = validation(candidate("run-2", "tn-0", crystal(4)), True, recipe="other")
    store.upsert_validations([known])
    found = only_metrics(store, run)
    assert found.recipe == "recipe-1"
    assert sum(found.assessment.counts.values()) == 7


def test_engines_and_recipes_are_told_apart(store):
    run = put_verdicts(store, {"tp": 2, "fp": 1, "fn": 0, "tn": 3})
    other = validation(candidate("run-1", "tp-0", crystal(0)), False, engine="vasp")
    store.upsert_validations([other])
    gpaw, vasp = run_metrics(store, run)
    assert gpaw.assessment.counts == {"tp": 2, "fp": 1, "fn": 0, "tn": 3}
    assert vasp.assessment.counts == {"tp": 0, "fp": 1, "fn": 0, "tn": 0}


def test_the_dft_spectra_are_judged_by_the_criteria_of_the_run(store):
    run = put_verdicts(store, {"tp": 1, "fp": 0, "fn": 0, "tn": 0})
    strict = {"criteria": dict(run.parameters["criteria"]) | {"min_width": 3.0}}
    (found,) = run_metrics(store, run.model_copy(update={"parameters": strict}))
    assert found.assessment.counts == {"tp": 0, "fp": 1, "fn": 0, "tn": 0}


def test_a_run_without_validations(store, run):
    assert run_metrics(store, run) == []


def test_spectra_of_these_tests_are_what_they_say(store, run):
    """`with_gap` stands in for DFT spectra in the tests of precision and recall."""
    from screening.gap import GapCriteria
    from workflows.verdicts import judge

    gaps = judge(np.array([with_gap(True), with_gap(False)]), [1, 1], GapCriteria())
    assert gaps.is_gap.tolist() == [True, False]


# lanthanides with stand-ins


@pytest.fixture
def lanthanides(store):
    """Al and Pr are predicted positives, Nd is none."""
    structures = {"al": crystal(0), "pr": crystal(1, "Pr"), "nd": crystal(2, "Nd")}
    return put_run(store, structures, ["al", "pr"])


def lanthanide(store, name, is_gap, maker, **changes):
    (document,) = store.candidates("run-1", material_ids=[name])
    return validation(document, is_gap, recipe=key_of(document, maker)["recipe"], **changes)


def test_a_calculation_with_stand_ins_is_another_than_one_without(store, lanthanides):
    stand_ins, own = GpawDosMaker(), GpawDosMaker(lanthanides="own")
    for done, again, same in ((own, stand_ins, ["pr"]), (stand_ins, own, [])):
        store.upsert_validations([lanthanide(store, name, True, done) for name in ("al", "pr")])
        plan = choose_validation(store, lanthanides, again, n_random=0)
        assert ids(plan) == same
        assert plan.reused == 2 - len(same)
    recipes = sorted(v.recipe for v in store.validations(material_ids=["pr"]))
    assert recipes == [own.recipe, f"{own.recipe}+La-for-Pr"]


def test_calculations_with_stand_ins_count_with_the_others_of_the_same_settings(store, lanthanides):
    maker, own = GpawDosMaker(), GpawDosMaker(lanthanides="own")
    plan = choose_validation(store, lanthanides, maker, strategy="random")
    record_plan(store, plan)
    store.upsert_validations(
        [
            *(lanthanide(store, name, name != "nd", maker) for name in ("al", "pr", "nd")),
            lanthanide(store, "pr", False, own),
        ]
    )
    (metrics,) = run_metrics(store, store.run("run-1"))
    assert metrics.recipe == maker.recipe
    assert metrics.assessment.counts == {"tp": 2, "fp": 0, "fn": 0, "tn": 1}
    assert metrics.assessment.positives.drawn == Sample(positive=2)
    later = choose_validation(store, store.run("run-1"), maker, strategy="random")
    assert later.run == store.run("run-1")  # nothing that was drawn counts as chosen by rank
    assert later.reused == 3


def test_times_with_stand_ins_tell_the_cost_of_the_others(store, lanthanides):
    maker = GpawDosMaker()
    times = {"al": 10.0, "pr": 20.0, "nd": 30.0}
    store.upsert_validations(
        lanthanide(store, name, True, maker, wall_time=time) for name, time in times.items()
    )
    put_run(store, {"sm": crystal(3, "Sm")}, ["sm"], run_id="run-2")
    plan = choose_validation(store, store.run("run-2"), maker)
    (seconds,) = plan_cost(store, plan, maker).seconds
    assert 20 < seconds < 30 < maker.first_atom_time


# what DFT finds magnetic


MAGNETIC = {"is_spin_polarized": True, "magnetization": 1.2}


def test_magnetic_material_gets_a_state_of_its_own_and_no_verdict(store):
    run = put_run(store, {"p-1": crystal(1), "p-2": crystal(2)}, ["p-1", "p-2"])
    for name, changes in (("p-1", MAGNETIC), ("p-2", {"magnetization": 0.01})):
        number = int(name[2:])
        found = free_electrons(crystal(number), **changes)
        store.upsert_validations([validation_of(store, "run-1", key(name, number), found)])
    magnetic, nonmagnetic = sorted(store.validations(), key=lambda v: v.material_id)
    assert (magnetic.state, magnetic.is_positive) == ("magnetic", None)
    assert magnetic.spectrum is not None
    assert (nonmagnetic.state, nonmagnetic.is_positive) == ("done", False)
    (metrics,) = run_metrics(store, run)
    assert metrics.undecided == {"magnetic": 1}
    assert metrics.assessment.counts == {"tp": 0, "fp": 1, "fn": 0, "tn": 0}
    assert ids(plan(store, run)) == []  # neither is calculated again


def test_failure_of_another_attempt_does_not_undo_a_magnetic_result(store):
    put_run(store, {"p-1": crystal(1)}, ["p-1"])
    magnetic = free_electrons(crystal(1), **MAGNETIC)
    store.upsert_validations([validation_of(store, "run-1", key("p-1", 1), magnetic)])
    store_failure(store, "run-1", key("p-1", 1), "lost")
    (found,) = store.validations()
    assert (found.state, found.error) == ("magnetic", None)


def test_source_of_a_candidate_reaches_the_engine(store):
    given = []

    @dataclass
    class Maker(AnalyticDosMaker):
        def make(self, structure, material_id=None, source=None):
            given.append(source)
            return super().make(structure, material_id)

    chosen = candidate(
        "run-1", "p-1", crystal(1), band_gap=0.3, origin={"source": "mp", "functional": "r2SCAN"}
    )
    ValidationFlowMaker(dos_maker=Maker()).make(chosen)
    assert given == [SourceFacts(0.3, "r2SCAN")]
