"""Whether what a job names exists and fits together, checked before the job is made."""

from sqlalchemy.orm import Session

from store import files, model_registry
from store.errors import FileNotFound
from vrpo.contract.catalogue import Catalogue
from vrpo.contract.methods import VrpoMethod
from vrpo.contract.pipeline import PREFERENCE_JUDGE
from vrpo.contract.spec import CreateJob
from vrpo.contract.validation import RequestFault, nearest


def check_request(
    session: Session, tenant: str, request: CreateJob, catalogue: Catalogue
) -> list[RequestFault]:
    """Return everything that is wrong with the models, files and judge of a request."""
    faults = _model_faults(session, tenant, request, catalogue)
    faults += _file_faults(session, tenant, request)
    faults += _judge_faults(request, catalogue)
    faults += _sampler_faults(request)
    faults += _sharding_faults(request)
    return faults


def warnings_of(request: CreateJob) -> list[str]:
    """Return what is allowed and probably not meant."""
    if not isinstance(request.method, VrpoMethod):
        return []
    vrpo = request.method.vrpo
    warnings = []
    if vrpo.preference.cross_fit_folds == 1:
        warnings.append(
            "method.vrpo.preference.cross_fit_folds is 1: the preference model scores rows it was"
            " fitted on, which biases the loss"
        )
    if vrpo.reference.temperature != 1 or vrpo.reference.top_p != 1:
        warnings.append(
            "method.vrpo.reference: with temperature or top_p other than 1 the samples do not come"
            " from the reference policy itself"
        )
    if vrpo.reference.samples_per_prompt == 0:
        warnings.append("method.vrpo.reference.samples_per_prompt is 0: the loss is that of dpo")
    return warnings


def _model_faults(
    session: Session, tenant: str, request: CreateJob, catalogue: Catalogue
) -> list[RequestFault]:
    named = {"model": request.model}
    if isinstance(request.method, VrpoMethod):
        vrpo = request.method.vrpo
        if vrpo.reference.source not in ("base", "fit"):
            named["method.vrpo.reference.source"] = vrpo.reference.source
        if vrpo.preference.source == "fit" and vrpo.preference.backbone != "base":
            named["method.vrpo.preference.backbone"] = vrpo.preference.backbone
    if request.run.eval.opponent != "reference":
        named["run.eval.opponent"] = request.run.eval.opponent
    faults = []
    for param, name in named.items():
        is_backbone = param.endswith("backbone")
        listed = [
            model.id for model in (catalogue.models if is_backbone else catalogue.base_models)
        ]
        if name in listed or model_registry.resolve(session, tenant, name):
            continue
        if catalogue.model(name):
            faults.append(
                RequestFault(
                    code="model_not_found",
                    message=f"{param}: {name!r} is an embedder, which can only be the backbone of "
                    f"a preference model. Allowed: {', '.join(listed)}",
                    param=param,
                )
            )
            continue
        close = nearest(name, listed)
        guess = "." if close is None else f"; did you mean {close}?"
        allowed = ", ".join(listed) or "none, as the operator's models.toml is empty"
        faults.append(
            RequestFault(
                code="model_not_found",
                message=f"{param}: there is no model {name!r} here{guess} Allowed: {allowed}",
                param=param,
            )
        )
    return faults


def _file_faults(session: Session, tenant: str, request: CreateJob) -> list[RequestFault]:
    named = {"training_file": request.training_file}
    if request.validation_file is not None:
        named["validation_file"] = request.validation_file
    method = request.method.type
    faults = []
    for param, file_id in named.items():
        try:
            file = files.get(session, tenant, file_id)
        except FileNotFound as error:
            faults.append(RequestFault("file_not_found", f"{param}: {error.message}", param))
            continue
        suited = file.report["methods"]
        if method not in suited:
            faults.append(
                RequestFault(
                    code="invalid_training_file",
                    message=f"{param}: {file_id} holds {file.report['format']} rows, which suit"
                    f" {' and '.join(suited) or 'no method'}; the method {method} needs"
                    " preference rows",
                    param=param,
                )
            )
        elif param == "training_file":
            faults += _column_faults(request, file_id, file.report.get("preference_columns"))
    return faults


def _column_faults(request: CreateJob, file_id: str, columns: str | None) -> list[RequestFault]:
    """Return what is wrong where p_eta is to come from columns of the training file."""
    method = request.method
    if not isinstance(method, VrpoMethod) or method.vrpo.preference.source != "columns":
        return []
    if columns is None:
        return [
            RequestFault(
                code="invalid_training_file",
                message=f"training_file: {file_id} has no preference columns, which "
                "method.vrpo.preference.source 'columns' needs: samples and preferences, or a_1, "
                "a_2, chosen_preference and a_1_preference (docs/preference_models.md)",
                param="training_file",
            )
        ]
    if columns == "pair" and method.vrpo.reference.pool_labelled:
        return [
            RequestFault(
                code="invalid_value",
                message="method.vrpo.reference.pool_labelled must be false: the columns of "
                f"{file_id} do not say how a labelled response compares with a sample",
                param="method.vrpo.reference.pool_labelled",
            )
        ]
    return []


def _judge_faults(request: CreateJob, catalogue: Catalogue) -> list[RequestFault]:
    listed = [judge.name for judge in catalogue.judges]
    named = {"run.eval.judge": (request.run.eval.judge, [PREFERENCE_JUDGE, *listed])}
    if isinstance(request.method, VrpoMethod) and request.method.vrpo.preference.judge:
        asked = [judge.name for judge in catalogue.judges if judge.kind == "openai"]
        named["method.vrpo.preference.judge"] = (request.method.vrpo.preference.judge, asked)
    return [
        RequestFault(
            code="invalid_value",
            message=f"{param}: there is no judge {name!r} here. Allowed: "
            f"{', '.join(allowed) or 'none, as the operator lists no judge of kind openai'}",
            param=param,
        )
        for param, (name, allowed) in named.items()
        if name not in allowed
    ]


def _sampler_faults(request: CreateJob) -> list[RequestFault]:
    method = request.method
    if not isinstance(method, VrpoMethod) or method.vrpo.reference.sampler != "vllm":
        return []
    if request.run.resources.gpus > 0:
        return []
    return [
        RequestFault(
            code="invalid_value",
            message="method.vrpo.reference.sampler: 'vllm' needs a GPU; ask for one by "
            "run.resources.gpus, or use 'transformers'",
            param="method.vrpo.reference.sampler",
        )
    ]


def _sharding_faults(request: CreateJob) -> list[RequestFault]:
    resources, training = request.run.resources, request.run.training
    if resources.workers == 1 or resources.sharding == "ddp":
        return []
    if training.optimizer != "adamw_8bit":
        return []
    return [
        RequestFault(
            code="invalid_value",
            message="run.training.optimizer: 'adamw_8bit' keeps one scale for each 256 values of a"
            " whole tensor, which run.resources.sharding 'fsdp' cuts into shares; use 'adamw',"
            " whose moments are shared out, or set run.resources.sharding to 'ddp'",
            param="run.training.optimizer",
        )
    ]
