"""The view of one run: its verdict in text, the live line, the pictures, and the trackers.

Imported by cli. Begin reading in text.py, then live.py and picture.py.
"""
