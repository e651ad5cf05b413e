"""Training of a predictor, from a configuration to checkpoints with a model card.

- `config`: what is trained, on what, and how
- `train`: a predictor, all its settings one after another, and its test figures
- `fit`: one model under one setting
- `batches`: a data set, kept where it is trained on
- `module`, `callbacks`: optimiser, best weights and saved states, for Lightning
- `resume`: what is on disk of a training that is not finished
- `checkpoint`: weights and what they are
- `card`: the model card
"""
