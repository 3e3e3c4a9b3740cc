"""How the API is served, from the environment (prefix ``VRPO_``)."""

from pydantic import Field

from store.settings import StoreSettings


class ServerSettings(StoreSettings):
    """What the server needs besides the store's settings."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    max_file_bytes: int = Field(default=512 * 1024**2, ge=1)
    """Largest upload."""
    max_body_bytes: int = Field(default=1024**2, ge=1)
    """Largest JSON body."""
    max_waiters: int = Field(default=200, ge=0)
    """Long polls held at a time; those beyond it are answered at once."""
    poll_s: float = Field(default=0.25, gt=0, le=10)
    """How often a long poll looks for a change."""
