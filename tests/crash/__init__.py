"""The process under fire: a bot whose parts break when told to, killed at every boundary, and what must hold afterwards.

`victim.py` is that bot, `python -m tests.crash` the run; `tests/faults/` uses the same victim.
"""
