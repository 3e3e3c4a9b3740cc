"""Where the models and judges that a job names come from, and the digest of what they hold."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from vrpo.contract.catalogue import Catalogue
from vrpo.contract.pipeline import PREFERENCE_JUDGE
from vrpo.contract.task import JudgeSource, ModelSource
from vrpo.errors import ModelNotAllowed


@dataclass(frozen=True)
class ResolvedModel:
    """A model that workers can load, and what identifies its weights."""

    source: ModelSource
    digest: str


@dataclass(frozen=True)
class ResolvedJudge:
    """A judge that workers can ask, and what identifies it."""

    source: JudgeSource
    digest: str


class FileDigests:
    """SHA-256 of files, computed again only when size or modification time has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def file(self, path: Path) -> str:
        """Return the SHA-256 of one file as hex."""
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._known:
            with path.open("rb") as stream:
                self._known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._known[key]

    def folder(self, path: Path) -> str:
        """Return ``sha256:<hex>`` over names and contents of the files of a model folder.

        Raises ``ModelNotAllowed`` where the folder is missing or holds no safetensors weights.
        """
        if not path.is_dir():
            raise ModelNotAllowed(f"the model folder {path} does not exist on this machine")
        files = [file for file in sorted(path.iterdir()) if file.is_file()]
        if not any(file.suffix == ".safetensors" for file in files):
            raise ModelNotAllowed(f"{path} holds no .safetensors file; other formats can run code")
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.name}\0{self.file(file)}\n".encode())
        return f"sha256:{total.hexdigest()}"


def resolve_listed(name: str, catalogue: Catalogue, digests: FileDigests) -> ResolvedModel | None:
    """Return the model of the operator's list, or None when the name is not on it."""
    listed = catalogue.model(name)
    if listed is None:
        return None
    if listed.path is not None:
        return ResolvedModel(listed.source(), digests.folder(Path(listed.path)))
    return ResolvedModel(listed.source(), f"hub:{listed.hub_id}@{listed.revision}")


def resolve_judge(name: str, catalogue: Catalogue, digests: FileDigests) -> ResolvedJudge:
    """Return the judge of that name: the job's preference model, or one of the operator's list.

    Raises ``ModelNotAllowed`` when the operator's list has no judge of that name.
    """
    if name == PREFERENCE_JUDGE:
        return ResolvedJudge(JudgeSource(name=name, kind="preference_model"), name)
    listed = catalogue.judge(name)
    if listed is None:
        known = ", ".join((PREFERENCE_JUDGE, *(judge.name for judge in catalogue.judges)))
        raise ModelNotAllowed(f"the judge {name!r} is not on the operator's list; known: {known}")
    source = listed.source()
    if source.path is None:
        return ResolvedJudge(source, json.dumps([source.base_url, source.model]))
    path = Path(source.path)
    if not path.is_file():
        raise ModelNotAllowed(f"the file {path} of the judge {name!r} does not exist")
    return ResolvedJudge(source, f"sha256:{digests.file(path)}")
