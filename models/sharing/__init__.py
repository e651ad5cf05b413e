"""Predictors that travel from one group to another.

- `listing`: what is shipped, trained and pulled, and whether it is whole
- `manifest`: which files a predictor may have, and their hashes
- `pulling`: from a hub or a folder into the cache, checked
- `pushing`: to a hub or a folder, with its card
- `hub`: the Hugging Face Hub, by its own client
"""
