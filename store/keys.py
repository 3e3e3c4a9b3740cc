"""API keys ``vk_<id>_<secret>``: 256 random bits, of which only the SHA-256 is kept."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.errors import InvalidKey, KeyNotFound, NotAllowed
from store.ids import new_id
from store.models import ApiKey, Tenant

OPERATOR_TENANT = "default"
"""The tenant of the first admin key; its admins may make keys for other tenants."""
ADMIN_KEY_FILE = "admin.key"


class Role(StrEnum):
    """What a key may do; each role may do what the ones before it may."""

    VIEWER = "viewer"
    """Read."""
    SUBMITTER = "submitter"
    """Upload files, create and cancel jobs."""
    ADMIN = "admin"
    """Make and revoke keys."""

    def reaches(self, needed: "Role") -> bool:
        """Whether a key of this role may do what ``needed`` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Principal:
    """Whoever a request comes from."""

    tenant_id: str
    role: Role
    key_id: str

    def require(self, needed: Role) -> None:
        """Raise ``NotAllowed`` when the role does not reach ``needed``."""
        if not self.role.reaches(needed):
            raise NotAllowed(
                f"this needs the role {needed.value}; the key's role is {self.role.value}"
            )


def create(session: Session, tenant: str, *, name: str, role: Role) -> tuple[ApiKey, str]:
    """Make a key, and its tenant where that is new; returns the row and the key, shown once."""
    ensure_tenant(session, tenant)
    key_id = new_id("")[:12]
    secret = secrets.token_hex(32)
    key = ApiKey(
        id=key_id,
        tenant_id=tenant,
        name=name,
        role=role.value,
        secret_sha256=_digest(secret),
        created_at=datetime.now(UTC),
    )
    session.add(key)
    session.flush()
    return key, f"vk_{key_id}_{secret}"


def authenticate(session: Session, presented: str) -> Principal:
    """Return whom the key belongs to. Raises ``InvalidKey``; all wrong keys are alike."""
    prefix, _, rest = presented.partition("_")
    key_id, _, secret = rest.partition("_")
    key = session.scalars(
        select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    ).one_or_none()
    expected = _digest("") if key is None else key.secret_sha256
    matches = hmac.compare_digest(expected, _digest(secret))
    if key is None or prefix != "vk" or not matches:
        raise InvalidKey("the API key is not valid; send it as 'Authorization: Bearer vk_...'")
    return Principal(tenant_id=key.tenant_id, role=Role(key.role), key_id=key.id)


def of_tenant(session: Session, tenant: str) -> Sequence[ApiKey]:
    """Return the tenant's keys, newest first, the revoked ones too."""
    return session.scalars(
        select(ApiKey).where(ApiKey.tenant_id == tenant).order_by(ApiKey.seq.desc())
    ).all()


def revoke(session: Session, tenant: str, key_id: str) -> ApiKey:
    """End a key at once; a second time changes nothing. Raises ``KeyNotFound``."""
    session.execute(
        update(ApiKey)
        .where(ApiKey.tenant_id == tenant, ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
        .execution_options(synchronize_session=False)
    )
    key = session.scalars(
        select(ApiKey)
        .where(ApiKey.tenant_id == tenant, ApiKey.id == key_id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if key is None:
        raise KeyNotFound(f"there is no key {key_id!r}")
    return key


def ensure_tenant(session: Session, tenant: str) -> None:
    """Create the tenant if it is new."""
    if session.get(Tenant, tenant) is None:
        session.add(Tenant(id=tenant, created_at=datetime.now(UTC), change_seq=0))
        session.flush()


def ensure_admin_key(session: Session, home: Path) -> Path:
    """Return ``home/admin.key``, made on the first start: one line, readable by its owner alone.

    A new key is made when the file is missing or its key is no longer valid. The file is complete
    before the row commits, so a crash between the two leaves a key that the next start replaces.
    """
    path = home / ADMIN_KEY_FILE
    if path.exists():
        try:
            authenticate(session, path.read_text(encoding="ascii").strip())
        except InvalidKey:
            pass
        else:
            return path
    _, text = create(session, OPERATOR_TENANT, name="admin", role=Role.ADMIN)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
