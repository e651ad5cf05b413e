"""Convergence of the GPAW presets: DOS of 10 materials against tighter settings.

    python tests/benchmarks/gpaw_convergence.py --runs RUNS [--out FILE]

RUNS keeps one DOS a file, so that a stopped benchmark goes on where it was. The reference has
550 eV, 0.22/Å for the density and 0.14/Å for the DOS; presets are compared with it by the
Wasserstein distance of SumNorm spectra on the 128-bin grid, the mean absolute difference of these
spectra in states/eV/cell, and the band gap.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from models.metrics import wasserstein_distances
from models.spectrum import EDOS_GRID, align_edos
from workflows.dos.campaign import Material, run
from workflows.dos.document import DosDocument
from workflows.dos.gpaw import GpawDosMaker

CRYSTALS = {
    "Al": bulk("Al"),
    "C": bulk("C"),
    "Si": bulk("Si"),
    "LiF": bulk("LiF", "rocksalt", a=4.07),
    "MgO": bulk("MgO", "rocksalt", a=4.25),
    "SiC": bulk("SiC", "zincblende", a=4.38),
    "TiC": bulk("TiC", "rocksalt", a=4.33),
    "Na": bulk("Na"),
    "Cu": bulk("Cu"),
    "Mo": bulk("Mo"),
}
REFERENCE = {"ecut": 550.0, "k_spacing_scf": 0.22, "k_spacing_dos": 0.14}
MAKERS = {
    "fast": GpawDosMaker(preset="fast"),
    "standard": GpawDosMaker(preset="standard"),
    "reference": GpawDosMaker(preset="standard", user_settings=REFERENCE),
}


def spectrum(document: DosDocument) -> np.ndarray:
    """128 bins, in states/eV/cell."""
    energies, dos = np.array(document.energies), np.array(document.dos)
    return align_edos(energies, dos, document.vbm, document.cbm).values


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps each DOS")
    parser.add_argument("--out", type=Path, help="Markdown file")
    args = parser.parse_args()
    todo = [
        Material(name, AseAtomsAdaptor.get_structure(atoms)) for name, atoms in CRYSTALS.items()
    ]
    documents = {
        preset: {
            d.material_id: d for d in run(todo, maker, args.runs) if isinstance(d, DosDocument)
        }
        for preset, maker in MAKERS.items()
    }
    lines = [
        "| Material | WD fast (eV) | WD standard (eV) | MAE fast | MAE standard "
        "| Gap fast, standard, reference (eV) | Time (s) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    distances: dict[str, list[float]] = {"fast": [], "standard": []}
    for name, exact in documents["reference"].items():
        errors = {}
        for preset, found in distances.items():
            ours, theirs = spectrum(documents[preset][name]), spectrum(exact)
            found.append(float(wasserstein_distances(ours[None], theirs[None], EDOS_GRID.width)[0]))
            errors[preset] = float(np.abs(ours - theirs).mean())
        three = [documents[preset][name] for preset in MAKERS]
        lines.append(
            f"| {name} | {distances['fast'][-1]:.3f} | {distances['standard'][-1]:.3f} "
            f"| {errors['fast']:.3f} | {errors['standard']:.3f} "
            f"| {', '.join(f'{d.band_gap:.2f}' for d in three)} "
            f"| {', '.join(f'{d.wall_time:.0f}' for d in three)} |"
        )
    summary = "; ".join(
        f"{preset}: median WD {statistics.median(found):.3f} eV, largest {max(found):.3f} eV"
        for preset, found in distances.items()
    )
    text = f"{summary} ({len(documents['reference'])} materials)\n\n" + "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
