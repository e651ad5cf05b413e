"""Which predictor judges the best candidates again, dearer and nearer to DFT, and how many."""

from __future__ import annotations

from pathlib import Path

from models.zoo import DEFAULT_EDOS, ZOO, model_id, predictor_grid

RESCORED = 20_000  # all of most screenings: of 4,000 a quarter of the teacher's positives was not
RESCORE_WITH = ZOO / "tight-binding-edos"


def n_unless_asked(checkpoint: Path, second: Path, preferred: int | None = None) -> int:
    """How many candidates are judged again if nothing is said of it.

    Parameters
    ----------
    checkpoint, second : Path
        Folders of the first and of the second predictor.
    preferred : int, optional
        What a user wants of all runs.

    Returns
    -------
    int
        What is preferred, else :data:`RESCORED` of the default predictor and none of another; none
        if the second predictor is the first, or predicts other spectra.
    """
    n = preferred
    if n is None:
        n = RESCORED if checkpoint.resolve() == DEFAULT_EDOS.resolve() else 0
    return n if n and can_judge_again(checkpoint, second) else 0


def can_judge_again(checkpoint: Path, second: Path) -> bool:
    """Whether a second predictor is another one than the first, and of the same spectra.

    Parameters
    ----------
    checkpoint, second : Path
        Folders of both.
    """
    is_same = model_id(checkpoint) == model_id(second)
    return not is_same and predictor_grid(checkpoint).unit == predictor_grid(second).unit


NOT_JUDGED_AGAIN = "not judged again by "


def not_judged_again(model: str, reason: str) -> str:
    """Remark on a candidate that keeps its first verdict.

    Parameters
    ----------
    model : str
        Name of the second predictor.
    reason : str
        Why it refuses the candidate, or failed on it.
    """
    return f"{NOT_JUDGED_AGAIN}{model}: {reason}"
