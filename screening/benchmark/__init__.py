"""How well the models do on held-out materials: trainings, studies, tables and figures."""
