"""``/v1/admin/keys``: API keys of a tenant; the operator's admins may name other tenants."""

from fastapi import APIRouter

from server import present
from server.deps import Admin, BodyDep, ReadSessionDep, SessionDep
from store import keys
from store.errors import NotAllowed
from vrpo.contract.validation import parse_json, validate
from vrpo.contract.views import CreateKey, KeyView, ListView

router = APIRouter(prefix="/v1/admin/keys", tags=["admin"])

_KEY_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CreateKey"}}},
    }
}


@router.post("", openapi_extra=_KEY_BODY)
def create_key(body: BodyDep, principal: Admin, session: SessionDep) -> KeyView:
    """Create a key; this answer alone holds the whole of it."""
    asked = validate(CreateKey, parse_json(body.raw))
    tenant = asked.tenant or principal.tenant_id
    if tenant != principal.tenant_id and principal.tenant_id != keys.OPERATOR_TENANT:
        raise NotAllowed("only the operator's admins make keys for other tenants", param="tenant")
    key, text = keys.create(session, tenant, name=asked.name, role=keys.Role(asked.role))
    return present.key_view(key, text=text)


@router.get("")
def list_keys(principal: Admin, session: ReadSessionDep) -> ListView[KeyView]:
    """List the tenant's keys, newest first, the revoked ones too."""
    found = keys.of_tenant(session, principal.tenant_id)
    return present.list_view([present.key_view(key) for key in found], has_more=False)


@router.delete("/{key_id}")
def revoke_key(key_id: str, principal: Admin, session: SessionDep) -> KeyView:
    """Revoke a key; it is refused from now on."""
    return present.key_view(keys.revoke(session, principal.tenant_id, key_id))
