"""Random labels: AdamW, and every 20 steps the labels of random examples, as a null for `margin`.

    buy the labels of `size` random examples without one, until `labels` examples have one

State: AdamW's m and v, two words per parameter.
Departures from the paper: none; it has no paper.
"""

from submissions.data import margin
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "labels": {"int": [60, 1000], "default": 300, "goal": "labels"},
    "size": {"int": [5, 50], "default": 10},
}


class Algorithm(margin.Algorithm):
    def buy(self, count):
        self.task.reveal(margin.drawn(self.task)[:count])
