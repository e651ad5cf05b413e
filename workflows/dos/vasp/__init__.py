"""DOS by VASP, through atomate2."""
