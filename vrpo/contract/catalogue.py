"""The operator's list of models and judges, ``models.toml``.

[[models]]
id = "HuggingFaceTB/SmolLM2-135M-Instruct"   # the name that jobs use
hub_id = "HuggingFaceTB/SmolLM2-135M-Instruct"
revision = "7e27bd9f95328f0f3b08261d1252705110c806f8"

[[models]]
id = "tiny-reviews"
path = "tiny-reviews"                        # a folder, relative to this file

[[models]]
id = "minilm"
kind = "embedder"                            # only for method.vrpo.preference.backbone
path = "minilm"

[[judges]]
name = "sentiment"
kind = "text_classifier"
path = "sentiment_judge.safetensors"
"""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from vrpo.contract.base import Spec, Text
from vrpo.contract.task import JudgeSource, ModelKind, ModelSource
from vrpo.errors import ModelNotAllowed


class ListedModel(Spec):
    """A model that jobs may name: one to train, or an embedder for p_eta to read."""

    id: Text = Field(min_length=1, max_length=256)
    kind: ModelKind = "causal_lm"
    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    """Needed with ``hub_id``: a commit, so that the same name is always the same weights."""
    download: bool = False
    """Whether workers may fetch the revision from the hub; otherwise it must be cached already."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.path is None) == (self.hub_id is None):
            raise ValueError("give either path (a local folder) or hub_id with revision")
        if self.hub_id is not None and self.revision is None:
            raise ValueError("hub_id needs revision, a commit hash of the hub repository")
        return self

    def source(self) -> ModelSource:
        """Return where workers load it from."""
        return ModelSource(
            path=self.path,
            hub_id=self.hub_id,
            revision=self.revision,
            local_files_only=not self.download,
            kind=self.kind,
        )


class ListedJudge(Spec):
    """A judge that jobs may name."""

    name: Text = Field(min_length=1, max_length=64)
    kind: Literal["text_classifier", "openai"]
    path: str | None = None
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.name == "preference_model":
            raise ValueError("the name preference_model is taken by the fitted preference model")
        if self.kind == "text_classifier" and self.path is None:
            raise ValueError("a text_classifier needs path, its safetensors file")
        if self.kind == "openai" and (self.base_url is None or self.model is None):
            raise ValueError("an openai judge needs base_url and model")
        return self

    def source(self) -> JudgeSource:
        """Return what workers need to ask it."""
        return JudgeSource(**self.model_dump())


class Catalogue(Spec):
    """All models and judges of the operator's list."""

    models: tuple[ListedModel, ...] = ()
    judges: tuple[ListedJudge, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for names in ([m.id for m in self.models], [j.name for j in self.judges]):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"listed twice: {', '.join(sorted(twice))}")
        return self

    @property
    def base_models(self) -> tuple[ListedModel, ...]:
        """The models that jobs can start from."""
        return tuple(model for model in self.models if model.kind == "causal_lm")

    def model(self, name: str) -> ListedModel | None:
        """Return the listed model of that name."""
        return next((model for model in self.models if model.id == name), None)

    def judge(self, name: str) -> ListedJudge | None:
        """Return the listed judge of that name."""
        return next((judge for judge in self.judges if judge.name == name), None)


def load_catalogue(path: Path) -> Catalogue:
    """Read ``models.toml``; relative paths in it are relative to its folder.

    Raises ``ModelNotAllowed`` naming the file and the entry that is wrong. A missing file is an
    empty list.
    """
    if not path.exists():
        return Catalogue()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        catalogue = Catalogue.model_validate(raw)
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ModelNotAllowed(f"{path}: {error}") from error
    folder = path.resolve().parent

    def absolute(entry_path: str | None) -> str | None:
        return None if entry_path is None else str(folder / Path(entry_path).expanduser())

    return Catalogue(
        models=tuple(m.model_copy(update={"path": absolute(m.path)}) for m in catalogue.models),
        judges=tuple(j.model_copy(update={"path": absolute(j.path)}) for j in catalogue.judges),
    )
