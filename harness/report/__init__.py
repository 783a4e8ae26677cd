"""What people read: run/ shows one run, board/ shows many.

Imported by campaign and cli. It imports records, clock, train, catalog, system and the kit. Begin
reading in run/text.py for one run, and in board/board.py for many.
"""
