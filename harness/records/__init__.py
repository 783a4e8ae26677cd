"""What the harness keeps of a trial, and every judgement that follows from it: rows in, facts out.

Imported by race, report, laws, campaign and cli. It imports clock, train, catalog, system and the
kit. Nothing here starts a process or trains. Begin reading in judging.py, then log.py, result.py.
"""
