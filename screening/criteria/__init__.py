"""What makes a spectrum interesting: the VB gap, other criteria, and those of a user."""
