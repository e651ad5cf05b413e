"""Documents of a screening and the stores that keep them."""
