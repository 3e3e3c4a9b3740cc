"""The key of a stage's result: a key that has been computed is not computed again."""

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue

from vrpo.contract.pipeline import PlannedStage
from vrpo.contract.status import StageName

STAGE_VERSIONS: Mapping[StageName, int] = dict.fromkeys(StageName, 2)
"""Raised when the code of a stage changes what it puts out, so that old results are not re-used."""


def stage_key(
    stage: PlannedStage,
    *,
    tenant: str,
    input_keys: Mapping[StageName, str],
    file_digests: Mapping[str, str],
    model_digests: Mapping[str, str],
    judge_digest: str | None = None,
    job_id: str | None = None,
) -> str:
    """Return ``sha256:<hex>`` over all that decides the stage's output, its inputs' keys included.

    ``input_keys`` holds the key of each stage in ``stage.inputs``; ``file_digests`` and
    ``model_digests`` hold a digest for every uploaded file and model role. ``publish`` names the
    job in what it writes, so its key holds ``job_id`` too. Keys never cross tenants.
    """
    content: dict[str, JsonValue] = {
        "stage": stage.name.value,
        "version": STAGE_VERSIONS[stage.name],
        "tenant": tenant,
        "config": dict(stage.config),
        "inputs": {name.value: input_keys[name] for name in stage.inputs},
        "files": dict(file_digests) if stage.reads_files else {},
        "models": {role: model_digests[role] for role in stage.models},
        "judge": judge_digest if stage.judge else None,
        "job": job_id if stage.name is StageName.PUBLISH else None,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
