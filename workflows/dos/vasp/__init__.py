"""DOS by VASP, through atomate2, whose settings are read here, when it is imported."""

from workflows.settings_files import settings_in_words

with settings_in_words():
    import atomate2  # noqa: F401
