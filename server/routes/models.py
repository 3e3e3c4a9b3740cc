"""``/v1/models``: the operator's models, and those that jobs made."""

from fastapi import APIRouter, Request

from server import present
from server.deps import CatalogueDep, ReadSessionDep, SessionDep, Submitter, Viewer
from store import model_registry
from store.errors import ModelNotFound, NotAllowed
from vrpo.contract.views import DeletedView, ListView, ModelView

router = APIRouter(prefix="/v1/models", tags=["models"])


def _listed_view(model_id: str, request: Request) -> ModelView:
    created: int = request.app.state.catalogue.created_at()
    return ModelView(id=model_id, created=created, owned_by="operator")


@router.get("")
def list_models(
    request: Request, principal: Viewer, session: ReadSessionDep, catalogue: CatalogueDep
) -> ListView[ModelView]:
    """List the models that jobs can start from."""
    made = [
        present.model_view(row) for row in model_registry.of_tenant(session, principal.tenant_id)
    ]
    listed = [_listed_view(model.id, request) for model in catalogue.base_models]
    return present.list_view([*listed, *made], has_more=False)


@router.get("/{model:path}")
def read_model(
    model: str,
    request: Request,
    principal: Viewer,
    session: ReadSessionDep,
    catalogue: CatalogueDep,
) -> ModelView:
    """Read one model; names may hold slashes."""
    if catalogue.model(model):
        return _listed_view(model, request)
    found = model_registry.resolve(session, principal.tenant_id, model)
    if found is None:
        raise ModelNotFound(f"there is no model {model!r}", param="model")
    return present.model_view(found)


@router.delete("/{model:path}")
def delete_model(
    model: str, principal: Submitter, session: SessionDep, catalogue: CatalogueDep
) -> DeletedView:
    """Delete the name of a model that a job made; its job keeps the artifacts."""
    if catalogue.model(model):
        raise NotAllowed(f"{model} is on the operator's list, which is not changed through the API")
    model_registry.delete(session, principal.tenant_id, model)
    return DeletedView(id=model, object="model")
