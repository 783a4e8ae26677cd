"""Gradient centralisation: AdamW on gradients without their mean over the inputs of each output.

Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", arXiv
2004.01461, equation 1.

    g ← g − mean of each row of g, for tensors of two dimensions and more;  AdamW

State: AdamW's m and v, two words per parameter; the step.
Departures from the paper: none; rows are outputs, and an embedding's row is a token.
"""

from submissions.first_order import adamw

SPACE = adamw.SPACE
init = adamw.init


def update(params, grads, state, hp, progress):
    centred = [
        g - g.mean(dim=tuple(range(1, g.ndim)), keepdim=True) if g.ndim > 1 else g for g in grads
    ]
    adamw.update(params, centred, state, hp, progress)
