"""Convergence of the GPAW presets: DOS of 10 materials against tighter settings.

    python -m tests.benchmarks.gpaw_convergence --runs RUNS [--out FILE] [--only Mo Cu]

RUNS keeps one DOS a file, so that a stopped benchmark goes on where it was. The reference has
550 eV, 0.22/Å for the density and 0.10/Å (metals: 0.07/Å) for the DOS; presets are compared with
it by the Wasserstein distance of SumNorm spectra on the 128-bin grid, the mean absolute difference
of these spectra in states/eV/cell, and the band gap.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID, align_edos
from tests.benchmarks.dos_campaign import Material, run
from workflows.dos.document import DosDocument
from workflows.dos.gpaw.maker import GpawDosMaker

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
REFERENCE = {
    "ecut": 550.0,
    "k_spacing_scf": 0.22,
    "k_spacing_dos": 0.10,
    "k_spacing_metal": 0.07,
}
MAKERS = {
    "fast": GpawDosMaker(preset="fast"),
    "standard": GpawDosMaker(preset="standard"),
    "accurate": GpawDosMaker(preset="accurate"),
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
    parser.add_argument("--only", nargs="+", choices=CRYSTALS, default=CRYSTALS, help="crystals")
    args = parser.parse_args()
    todo = [Material(name, AseAtomsAdaptor.get_structure(CRYSTALS[name])) for name in args.only]
    documents: dict[str, dict[str | None, DosDocument]] = {preset: {} for preset in MAKERS}
    for material in todo:  # one after the other, so that a stopped benchmark has whole rows
        for preset, maker in MAKERS.items():
            (outcome,) = run([material], maker, args.runs)
            if isinstance(outcome, DosDocument):
                documents[preset][material.material_id] = outcome
        write_table(documents, args.out)


def write_table(documents: dict[str, dict[str | None, DosDocument]], out: Path | None) -> None:
    """Print the table of the materials that all settings have finished; write it to `out`."""
    presets = [preset for preset in MAKERS if preset != "reference"]
    names = [n for n in documents["reference"] if all(n in documents[p] for p in presets)]
    if not names:
        return
    lines = [
        f"| Material | WD {', '.join(presets)} (eV) | MAE (states/eV/cell) "
        "| Largest difference of a bin | Gap, reference last (eV) | Time (s) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    distances: dict[str, list[float]] = {preset: [] for preset in presets}
    for name in names:
        exact = spectrum(documents["reference"][name])
        mean, largest = [], []
        for preset in presets:
            ours = spectrum(documents[preset][name])
            distance = wasserstein_distances(ours[None], exact[None], EDOS_GRID.width)[0]
            distances[preset].append(float(distance))
            mean.append(float(np.abs(ours - exact).mean()))
            largest.append(float(np.abs(ours - exact).max()))
        every = [documents[preset][name] for preset in MAKERS]
        cells = [
            ", ".join(f"{distances[preset][-1]:.3f}" for preset in presets),
            ", ".join(f"{x:.3f}" for x in mean),
            ", ".join(f"{x:.2f}" for x in largest),
            ", ".join(f"{d.band_gap:.2f}" for d in every),
            ", ".join(f"{d.wall_time:.0f}" for d in every),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    summary = "; ".join(
        f"{preset}: median WD {statistics.median(found):.3f} eV, largest {max(found):.3f} eV"
        for preset, found in distances.items()
    )
    title = f"# Convergence of the presets\n\n{summary} ({len(names)} materials)\n\n"
    text = title + "\n".join(lines) + "\n"
    print(text, flush=True)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
