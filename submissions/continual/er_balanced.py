"""Experience replay from a memory balanced over classes.

Chrysakis and Moens, "Online Continual Learning from Imbalanced Data", ICML 2020.

    er, with class-balancing reservoir sampling in place of the reservoir: when full, an example of
    a class that is no largest one takes the place of one of a largest class

State: er's; how many examples of each class were seen.
Departures from the paper: replay batches are drawn uniformly from the memory, whatever the class.
"""

from harness.memory import Buffer
from submissions.continual import er

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = er.SPACE


class Algorithm(er.Algorithm):
    take = staticmethod(Buffer.add_balanced)
