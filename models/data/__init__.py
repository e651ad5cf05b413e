"""Labels: their files, what physics forbids of them, data sets and splits."""
