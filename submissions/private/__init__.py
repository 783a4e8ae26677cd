"""Private training: noisy sums of clipped gradients alone."""
