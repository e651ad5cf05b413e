"""DOS by VASP, through atomate2, whose settings are read here, when it is imported."""

import os

from pydantic import ValidationError

from models.errors import describe
from screening.errors import ScreeningError, one_line

try:
    import atomate2  # noqa: F401
except ImportError:
    raise
except Exception as error:  # pydantic's, or of whatever reads the file
    file = os.environ.get("ATOMATE2_CONFIG_FILE", "~/.atomate2.yaml")
    reason = describe(error) if isinstance(error, ValidationError) else one_line(error)
    raise ScreeningError(
        f"atomate2 refuses {file} or an ATOMATE2_ variable of the environment ({reason}): correct "
        "the line or take it out"
    ) from None
