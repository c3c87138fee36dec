"""``python -m hornbook`` is the command ``hornbook``."""

from .cli import main

main()
