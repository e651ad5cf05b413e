"""DOS by GPAW."""
