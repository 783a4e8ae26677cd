"""Experience replay from a memory balanced over classes.

Chrysakis and Moens, "Online Continual Learning from Imbalanced Data", ICML 2020.

    er, with class-balancing reservoir sampling: in a full memory, an example of a class that is not
    among the largest replaces an example of a largest class

State: er's; the number of examples seen of each class.
Departures from the paper: replay batches are drawn uniformly from the memory, not by class; a class
that was once among the largest is not remembered as one.
"""

from harness.memory import Buffer
from submissions.continual import er

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = er.SPACE


class Algorithm(er.Algorithm):
    take = staticmethod(Buffer.add_balanced)
