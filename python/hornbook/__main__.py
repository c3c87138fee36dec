"""``python -m hornbook`` is the command ``hornbook``."""

from .cli import start

start()
