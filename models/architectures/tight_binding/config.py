"""Size and parts of the tight-binding model, and the weights of its losses."""

from __future__ import annotations

from pydantic import Field

from models.architectures.interface import ArchitectureConfig
from models.architectures.tight_binding.bonds import FULL
from models.spectra.spectrum import EDOS_GRID, EnergyGrid


class LossWeights(ArchitectureConfig):
    """Weights of the parts of the loss.

    See :meth:`~models.architectures.tight_binding.model.TightBinding.losses`.

    Parameters
    ----------
    distance : float
        Of the Wasserstein distance in eV.
    difference : float
        Of the absolute difference of spectra with the sum 1.
    occupied : float
        Of the error of the occupied states' mean depth, per electron, in eV.
    gap : float
        Of the error of an insulator's gap in eV.
    """

    distance: float = Field(1.0, ge=0)
    difference: float = Field(0.3, ge=0)
    occupied: float = Field(0.3, ge=0)
    gap: float = Field(0.1, ge=0)


class TightBindingConfig(ArchitectureConfig):
    """Size and parts of the tight-binding model.

    Parameters
    ----------
    members : int
        Networks that differ in their seeds and are trained each on its own; the prediction is the
        mean of their spectra.
    hidden : int
        Width of the perceptrons that give atoms their levels and bonds their integrals.
    embedding : int
        Learned numbers of each element, besides its properties.
    dropout : float
        Between their layers.
    reach : float
        Longest bonds, as a multiple of the nearest neighbour's distance; both relative to the
        covalent radii.
    mesh : float
        Size in Å of the supercell whose levels make a prediction; it decides how finely wave
        vectors are sampled. Small cells get a finer mesh.
    computed_mesh : float
        The same of the levels that are computed, of those that a symmetry makes equal one; the
        others are interpolated. The spectra of 300 structures of up to 60 atoms were 0.012 eV
        (Wasserstein distance) from those of all levels on 30 Å, with all levels on 20 Å 0.013 eV
        and on 24 Å 0.009 eV. Computed on 14 Å: 0.017 eV; on 20 Å, with a mesh of 30 Å: 0.009 eV.
    training_mesh : float
        Like `mesh`, in training.
    shifted : bool
        Whether each step of the training shifts that mesh at random.
    diffuse : bool
        Whether atoms have the diffuse s*, for the continuum.
    overlap : bool
        Whether orbitals of neighbours overlap, see :mod:`.bands`.
    loss_weights : LossWeights
    max_orbitals : int
        Cells with more orbitals are refused: the time of a matrix grows with the cube of them,
        its memory with the square.
    kernel : float
        Share of a kernel regression of the residuals of the training materials that is added to
        the shape of a spectrum, see
        :class:`~models.architectures.tight_binding.correction.Correction`; 0: none. Else the
        number of empty states is corrected, too, and fully. Atoms and shells keep their shares at
        each energy. Levels, band edges, and whose the states of an energy range are, are those of
        the Hamiltonian.
    grid : EnergyGrid
        Of the spectra, in eV; filled in when a model is trained.
    """

    members: int = Field(1, gt=0)
    hidden: int = Field(128, gt=0)
    embedding: int = Field(6, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    reach: float = Field(1.75, gt=FULL)
    mesh: float = Field(24.0, gt=0)
    computed_mesh: float = Field(17.0, gt=0)
    training_mesh: float = Field(11.0, gt=0)
    shifted: bool = True
    diffuse: bool = True
    overlap: bool = False
    loss_weights: LossWeights = LossWeights()
    max_orbitals: int = Field(2500, gt=0)
    kernel: float = Field(0.0, ge=0, le=1)
    grid: EnergyGrid = EDOS_GRID
