"""The VB-gap criteria: what an empty range of a spectrum has to be like.

A limit on a range is a small object, and a field of :class:`GapCriteria` that has it in its
annotation; :func:`screening.gap.find_gaps` applies all there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from screening.user_input import UserInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    BoolArray = NDArray[np.bool_]
    IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Ranges:
    """R ranges of a batch of spectra in which the DOS is below the threshold.

    Parameters
    ----------
    row, first, last : ndarray of int, shape (R,)
        The spectrum of each, and its first and last bin.
    lower, upper : ndarray, shape (R,)
        Its edges in eV.
    """

    row: IntArray
    first: IntArray
    last: IntArray
    lower: FloatArray
    upper: FloatArray

    @property
    def width(self) -> FloatArray:
        """In eV, shape (R,)."""
        return self.upper - self.lower

    def take(self, which: IntArray | BoolArray) -> Ranges:
        """Some of them, by index or by a mask of shape (R,)."""
        return Ranges(
            self.row[which],
            self.first[which],
            self.last[which],
            self.lower[which],
            self.upper[which],
        )


@dataclass(frozen=True)
class Limit:
    """A limit on a quantity of a range.

    Parameters
    ----------
    quantity : callable
        Of :class:`Ranges`: the quantity of each, in eV, shape (R,).
    sign : {1, -1}
        1 if it must be the limit or more, -1 if the limit or less.
    of_any_depth : bool
        It is asked of ranges anywhere below the band edge when these are counted.
    """

    quantity: Callable[[Ranges], FloatArray]
    sign: Literal[1, -1]
    of_any_depth: bool = True

    def margin(self, ranges: Ranges, value: float) -> FloatArray:
        """By how much each range keeps (positive) or misses (negative) the limit.

        Parameters
        ----------
        ranges : Ranges
        value : float
            Of the limit, in eV.

        Returns
        -------
        ndarray, shape (R,)
            In eV.
        """
        if self.sign > 0:
            return self.quantity(ranges) - value
        return value - self.quantity(ranges)


WIDE = Limit(lambda ranges: ranges.width, 1)
NOT_TOO_DEEP = Limit(lambda ranges: ranges.upper, 1, of_any_depth=False)
BELOW_THE_EDGE = Limit(lambda ranges: ranges.upper, -1)


class GapCriteria(UserInput):
    """The four numbers that define a VB gap (paper, 'Predicting electronic DOS').

    A spectrum has a VB gap when a contiguous energy range has

    (i) a DOS below `max_dos` at every point,
    (ii) a width of at least `min_width`,
    (iii) its upper edge at `min_upper_edge` or above, and
    (iv) its upper edge at `max_upper_edge` or below,

    with energies relative to the valence band maximum (the Fermi level in a metal).

    The paper looks for a *single* gap. By its own limits no spectrum can have two: upper edges
    that lie within 0.75 eV of each other leave no room for a second range of 1 eV. Whether
    further empty ranges deeper in the valence band matter is not said, and the counts of the
    paper are of these four criteria; `single_gap` is therefore off by default. It would refuse
    metals such as MgAl, which the paper confirms: the foot of a free-electron band is below
    1 state/eV as well.

    Parameters
    ----------
    max_dos : float
        States/eV; of the cell as in the paper, so that small cells pass more easily, or of an
        atom with `per_atom`.
    min_width, min_upper_edge, max_upper_edge : float
        In eV.
    per_atom : bool
        Divide the DOS by the number of atoms in the cell first.
    single_gap : bool
        Ask also that no other range below the band edge, however deep on the grid, meets (i)
        and (ii).
    band : {'valence', 'conduction'}
        ``'conduction'`` asks for the mirror image: a range above the conduction band minimum,
        with its *lower* edge between ``-max_upper_edge`` and ``-min_upper_edge``.
    """

    command_line: ClassVar = {
        "per_atom": "--per-atom/--per-cell",
        "single_gap": "--single-gap/--no-single-gap",
    }

    max_dos: float = Field(default=1.0, gt=0, description="Largest DOS in the gap, states/eV/cell.")
    min_width: Annotated[float, WIDE] = Field(
        default=1.0, ge=0, description="Smallest width of the gap, eV."
    )
    min_upper_edge: Annotated[float, NOT_TOO_DEEP] = Field(
        default=-1.0, description="Lowest upper edge, eV from the VBM."
    )
    max_upper_edge: Annotated[float, BELOW_THE_EDGE] = Field(
        default=-0.25, description="Highest upper edge, eV from the VBM."
    )
    per_atom: bool = Field(default=False, description="What the DOS threshold is for.")
    single_gap: bool = Field(
        default=False,
        description="No second range of that width, however deep below the VBM.",
    )
    band: Literal["valence", "conduction"] = Field(
        default="valence", description="Below the VBM, or above the CBM."
    )

    @model_validator(mode="after")
    def _interval_is_not_empty(self) -> Self:
        if self.min_upper_edge > self.max_upper_edge:
            raise ValueError(
                f"min_upper_edge ({self.min_upper_edge:g} eV) is above "
                f"max_upper_edge ({self.max_upper_edge:g} eV): nothing can pass"
            )
        return self

    @property
    def unit(self) -> str:
        """Unit of `max_dos` and of every DOS that a verdict reports."""
        return "states/eV/atom" if self.per_atom else "states/eV/cell"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the criteria: that of the DOS, which makes the ranges, and those on a range."""
        return ("max_dos", *cls.in_annotations(Limit))

    def limits(self) -> tuple[tuple[Limit, float], ...]:
        """The limits on a range, each with its value in eV."""
        on_range = self.in_annotations(Limit)
        return tuple((limit, getattr(self, name)) for name, limit in on_range.items())
