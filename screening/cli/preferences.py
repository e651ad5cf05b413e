"""What users set once for all commands.

In rising order: defaults, environment variables (``SCREEN_DB``), ``screen.yaml`` in the working
folder, the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from models.errors import field_errors
from screening.errors import ScreeningError

FILE = "screen.yaml"
PREFIX = "SCREEN_"
COMMAND_LINE = "command line"
DEFAULT = "default"


class Preferences(BaseSettings):
    """What users set once instead of typing it with every command.

    Parameters
    ----------
    db : str
        Path of the embedded store, or a MongoDB URI.
    mp_api_key_file : Path, optional
        File with the key of the Materials Project.
    checkpoint : str, optional
        Folder of the predictor, or the name of a shipped one.
    rescore : int, optional
        Candidates with the best scores that are judged again, of any predictor that can be.
    device : {'auto', 'cpu', 'cuda'}
        Where predictions run.
    launchpad : Path
        FireWorks' launchpad file.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, yaml_file=FILE, extra="forbid", frozen=True
    )

    db: str = "screening.sqlite"
    mp_api_key_file: Path | None = None
    checkpoint: str | None = None
    rescore: Annotated[int, Field(ge=0)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    launchpad: Path = Path("launchpad.yaml")

    @field_validator("rescore", mode="before")
    @classmethod
    def _no_yes(cls, number: Any) -> Any:
        """YAML's `yes` would count as 1."""
        if number is True or number is False:
            raise ValueError("a number of candidates is needed; 0 for none")
        return number

    @field_validator("mp_api_key_file", "launchpad")
    @classmethod
    def _without_tilde(cls, path: Path | None) -> Path | None:
        """As a shell gives it; in the file nothing else does."""
        return path and path.expanduser()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The file before the environment; no other sources."""
        return init_settings, YamlConfigSettingsSource(settings_cls), env_settings


@dataclass(frozen=True)
class Preference:
    """A preference and where its value comes from; the value of `db` may hold a password."""

    name: str
    value: str | None
    origin: str


def read_preferences() -> tuple[Preference, ...]:
    """All that environment, file and defaults give.

    Raises
    ------
    ScreeningError
        In one line, if one of them is wrong; without its value, which may be a secret.
    """
    in_file = _in_file()
    in_environment = EnvSettingsSource(Preferences)()
    try:
        values = Preferences().model_dump(mode="json")
    except ValidationError as error:
        raise ScreeningError(_in_words(error, in_file)) from None
    return tuple(
        Preference(
            name,
            None if value is None else str(value),
            FILE if name in in_file else _variable(name) if name in in_environment else DEFAULT,
        )
        for name, value in values.items()
    )


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _in_file() -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(Path(FILE).read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ScreeningError(f"{FILE}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScreeningError(f"{FILE}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(document, dict):
        raise ScreeningError(f"{FILE}: not a list of settings such as `db: screening.sqlite`")
    return document


def _in_words(error: ValidationError, in_file: Mapping[str, Any]) -> str:
    first = field_errors(error)[0]
    name = first.field.partition(".")[0]
    if name not in Preferences.model_fields:
        return (
            f"{FILE}: there is no setting {name}; there are {', '.join(Preferences.model_fields)}"
        )
    where = f"{FILE}, {name}" if name in in_file else _variable(name)
    return f"{where}: {first.message[:1].lower()}{first.message[1:]}"
