"""Which materials are interesting: sources, filters, VB-gap criteria, reports and the CLI."""
