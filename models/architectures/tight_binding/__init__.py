"""Electronic spectra from a learned tight-binding Hamiltonian."""
