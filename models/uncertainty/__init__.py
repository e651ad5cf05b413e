"""How far to trust a prediction."""
