"""The leaderboard of many runs: rows, scores, tables, figures and the page.

Imported by cli. Begin reading in board.py, then score.py and page.py.
"""
