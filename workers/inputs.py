"""What a job starts from: files, models and judge, each with the digest that identifies it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from store import files, model_registry
from store.models import Model
from store.queue import Claim
from store.session import Sessions
from vrpo.contract.catalogue import Catalogue, load_catalogue
from vrpo.contract.pipeline import judge_names, model_roles
from vrpo.contract.task import ModelSource
from vrpo.errors import ModelNotAllowed
from workers.models import (
    FileDigests,
    ResolvedJudge,
    ResolvedModel,
    resolve_judge,
    resolve_listed,
)


@dataclass(frozen=True)
class JobInputs:
    """Paths, sources and digests of everything that a job reads from outside itself."""

    files: Mapping[str, str]
    """``training`` and perhaps ``validation`` -> path."""
    file_digests: Mapping[str, str]
    models: Mapping[str, ResolvedModel]
    """By role."""
    judges: Mapping[str, ResolvedJudge]
    """By name."""


def resolve_inputs(
    claim: Claim, sessions: Sessions, *, models_file: Path, digests: FileDigests
) -> JobInputs:
    """Look up and digest a job's inputs; reads every byte of models it has not seen before.

    Raises ``ModelNotAllowed`` when a model or judge has left the operator's list, or its folder.
    """
    spec = claim.spec
    with sessions.read() as session:
        stored = {"training": files.get(session, claim.tenant_id, spec.training_file)}
        if spec.validation_file is not None:
            stored["validation"] = files.get(session, claim.tenant_id, spec.validation_file)
        roles = model_roles(spec)
        fine_tuned = {
            name: model_registry.resolve(session, claim.tenant_id, name) for name in roles.values()
        }
    catalogue = load_catalogue(models_file)
    return JobInputs(
        files={name: file.path for name, file in stored.items()},
        file_digests={name: file.sha256 for name, file in stored.items()},
        models={
            role: _resolve_model(name, fine_tuned[name], catalogue, digests)
            for role, name in roles.items()
        },
        judges={
            name: resolve_judge(name, catalogue, digests) for name in sorted(judge_names(spec))
        },
    )


def _resolve_model(
    name: str, row: Model | None, catalogue: Catalogue, digests: FileDigests
) -> ResolvedModel:
    if row is None:
        listed = resolve_listed(name, catalogue, digests)
        if listed is None:
            known = ", ".join(model.id for model in catalogue.models) or "none"
            raise ModelNotAllowed(
                f"the model {name!r} is not on the operator's list; known: {known}"
            )
        return listed
    digest = digests.folder(Path(row.path))
    if not row.adapter:
        return ResolvedModel(ModelSource(path=row.path), digest)
    base = resolve_listed(row.base_model, catalogue, digests)
    if base is None:
        raise ModelNotAllowed(
            f"{name!r} is an adapter on {row.base_model!r}, which has left the operator's list"
        )
    source = base.source.model_copy(update={"adapter_path": row.path})
    return ResolvedModel(source, f"{base.digest}+{digest}")
