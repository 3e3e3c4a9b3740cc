"""``python -m vrpo.cli`` is ``vrpo``."""

from vrpo.cli import main

main()
