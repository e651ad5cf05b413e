"""Labels for training from the Materials Project's computed spectra."""
