"""What a witness is told. A module of its own: `dmp witness` runs the other one as `__main__`."""

from __future__ import annotations

from pathlib import Path

from pydantic import FilePath
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.runtime.settings import Address


class WitnessSettings(BaseSettings):
    """What a witness is told."""

    model_config = SettingsConfigDict(env_prefix="DMP_WITNESS_", frozen=True, hide_input_in_errors=True)

    listen: Address = "127.0.0.1:0"
    key_file: FilePath
    logs_file: FilePath
    store: Path
