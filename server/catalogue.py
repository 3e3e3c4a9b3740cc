"""The operator's list of models, read again when its file has changed."""

import threading
from pathlib import Path

from vrpo.contract.catalogue import Catalogue, load_catalogue


class CatalogueFile:
    """``models.toml`` of the running server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._catalogue = Catalogue()

    def read(self) -> Catalogue:
        """Return the list as the file has it now. Raises ``ModelNotAllowed`` if it is wrong."""
        with self._lock:
            stamp = self._current_stamp()
            if stamp is None or stamp != self._stamp:
                self._catalogue = load_catalogue(self._path)
                self._stamp = stamp
            return self._catalogue

    def created_at(self) -> int:
        """Return when the list was last written, in unix seconds; 0 when there is none."""
        stamp = self._current_stamp()
        return 0 if stamp is None else stamp[0] // 10**9

    def _current_stamp(self) -> tuple[int, int, int] | None:
        if not self._path.exists():
            return None
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
