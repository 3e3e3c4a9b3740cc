"""Where the database and the artifacts are, from the environment (prefix ``VRPO_``)."""

from pathlib import Path
from typing import Self

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """What server, controller and CLI have in common."""

    model_config = SettingsConfigDict(env_prefix="VRPO_", extra="ignore")

    home: Path = Path("~/.vrpo")
    """``VRPO_HOME``: database, artifacts and the admin key live here unless told otherwise."""
    database_url: str = ""
    """SQLAlchemy URL; ``sqlite:///{home}/vrpo.db`` when empty."""
    artifacts: Path = Path()
    """Folder of uploaded files and stage outputs; ``{home}/artifacts`` when not given."""
    models_file: Path = Path()
    """The operator's list of models and judges; ``{home}/models.toml`` when not given."""

    @model_validator(mode="after")
    def _place_under_home(self) -> Self:
        self.home = self.home.expanduser().resolve()
        if not self.database_url:
            self.database_url = f"sqlite:///{self.home / 'vrpo.db'}"
        if self.artifacts == Path():
            self.artifacts = self.home / "artifacts"
        if self.models_file == Path():
            self.models_file = self.home / "models.toml"
        self.artifacts = self.artifacts.expanduser().resolve()
        self.models_file = self.models_file.expanduser().resolve()
        return self

    @property
    def files(self) -> Path:
        """Folder of uploaded files, one per file id."""
        return self.artifacts / "files"

    def make_folders(self) -> None:
        """Create the folders, readable by their owner alone."""
        for folder in (self.home, self.artifacts, self.files):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
