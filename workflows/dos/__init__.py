"""Total electronic DOS by DFT: one document and one interface, a folder for each engine."""
