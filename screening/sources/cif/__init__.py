"""CIF files, with the checks that keep a misread structure out."""
