"""What routes ask for: a session, who is asking, the operator's list, the body."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from server.catalogue import CatalogueFile
from server.errors import TooLarge
from server.settings import ServerSettings
from store import keys
from store.errors import Invalid, InvalidKey
from store.keys import Principal, Role
from store.session import Sessions
from vrpo.contract.catalogue import Catalogue


async def get_sessions(request: Request) -> Sessions:
    """Return the maker of sessions."""
    sessions: Sessions = request.app.state.sessions
    return sessions


async def get_settings(request: Request) -> ServerSettings:
    """Return the settings of the running server."""
    settings: ServerSettings = request.app.state.settings
    return settings


SessionsDep = Annotated[Sessions, Depends(get_sessions)]
SettingsDep = Annotated[ServerSettings, Depends(get_settings)]


def get_session(sessions: SessionsDep) -> Iterator[Session]:
    """One request, one transaction: commit if the route returned, else roll back."""
    with sessions.begin() as session:
        yield session


def get_read_session(sessions: SessionsDep) -> Iterator[Session]:
    """One request, one transaction that only reads."""
    with sessions.read() as session:
        yield session


# scope="function" ends the transaction before the answer leaves: what is answered is stored.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(get_read_session, scope="function")]


def get_viewer(request: Request, sessions: SessionsDep) -> Principal:
    """Return whom the request's key belongs to."""
    kind, _, presented = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not presented:
        raise InvalidKey("an API key is needed: send it as 'Authorization: Bearer vk_...'")
    with sessions.read() as session:
        return keys.authenticate(session, presented.strip())


Viewer = Annotated[Principal, Depends(get_viewer)]


async def get_submitter(principal: Viewer) -> Principal:
    """Return the asker if the key may change things."""
    principal.require(Role.SUBMITTER)
    return principal


async def get_admin(principal: Viewer) -> Principal:
    """Return the asker if the key may manage keys."""
    principal.require(Role.ADMIN)
    return principal


Submitter = Annotated[Principal, Depends(get_submitter)]
Admin = Annotated[Principal, Depends(get_admin)]


def get_catalogue(request: Request) -> Catalogue:
    """Return the operator's list as the file has it now."""
    catalogue: CatalogueFile = request.app.state.catalogue
    return catalogue.read()


CatalogueDep = Annotated[Catalogue, Depends(get_catalogue)]


@dataclass(frozen=True)
class JsonBody:
    """The raw bytes of a JSON body, and what identifies them."""

    raw: bytes
    sha256: str


async def get_json_body(request: Request, settings: SettingsDep) -> JsonBody:
    """Read the body, and stop as soon as it is too large."""
    refuse_encoded(request)
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > settings.max_body_bytes:
            raise TooLarge(
                f"the body is larger than {settings.max_body_bytes} bytes",
                code="request_too_large",
            )
    raw = bytes(chunks)
    return JsonBody(raw=raw, sha256=hashlib.sha256(raw).hexdigest())


def refuse_encoded(request: Request) -> None:
    """Refuse compressed bodies, whose real size is not known beforehand."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Invalid("send the body without Content-Encoding")


BodyDep = Annotated[JsonBody, Depends(get_json_body)]
