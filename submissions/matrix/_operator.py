"""What methods for low-rank matrices share: the measurements of a batch, and spectral pieces."""

import torch

from harness.errors import UserError


def pair(task):
    """Return the left and the right factor; raise UserError if the model is not their product."""
    if len(task.params) != 2 or any(role.kind != "factor" for role in task.roles):
        raise UserError(
            "this method needs exactly two factors, left and right",
            "matrix_asymmetric, matrix_completion",
        )
    return task.params


class Operator:
    """The measurements A of a batch that has them all: the loss is f(X) = ½‖A(X) − y‖².

    Attributes:
        y: the measurements; entries: True if A is a mask of entries, whose A·A* is `square` times
            the identity on what is seen.
    """

    def __init__(self, batch, shape):
        self.shape, self.entries = shape, "seen" in batch
        rows = len(next(iter(batch.values())))
        if self.entries and rows == shape[0]:
            root = (2 * batch["weight"][0] / rows) ** 0.5
            self.map, self.y, self.square = batch["seen"] * root, batch["values"] * root, root**2
        elif "design" in batch and batch["design"].shape[1] == shape[0] * shape[1]:
            self.map, self.y = batch["design"], batch["measurements"] / rows**0.5
            self.square = 1 / rows
        else:
            raise UserError("this method needs all measurements of a matrix in a step")

    def __call__(self, x):
        """Return A(x)."""
        if self.entries:
            return self.map * x
        return torch.mv(self.map, x.flatten()) * self.square**0.5

    def adjoint(self, r):
        """Return A*(r), as a matrix."""
        if self.entries:
            return self.map * r
        return (self.map.T @ r).view(self.shape) * self.square**0.5


def slope(task, batch, operator):
    """Return the loss and its gradient Z = A*(A(X) − y) by the matrix, in one counted pass."""
    x = task.model().detach().requires_grad_()
    loss = task.backward(batch, lambda *_: (operator(x) - operator.y).square().sum() / 2)
    return loss, x.grad


def leading(x, rank, start, sweeps):
    """Return U [n, rank], σ and V of the leading singular values, by subspace iteration on `start`.

    Args:
        start: [columns, rank], the subspace to begin with; sweeps: products with x and xᵀ each.
    """
    v = torch.linalg.qr(start).Q
    for _ in range(sweeps):
        v = torch.linalg.qr(x.T @ torch.linalg.qr(x @ v).Q).Q
    u, s, turn = torch.linalg.svd(x @ v, full_matrices=False)
    return u[:, :rank], s[:rank], (v @ turn.T)[:, :rank]


def spectral(left, right):
    """Return U, σ, V of the product of two factors."""
    q, a = torch.linalg.qr(left)
    p, b = torch.linalg.qr(right)
    u, s, vt = torch.linalg.svd(a @ b.T)
    return q @ u, s, p @ vt.T


def balance_(params, u, s, v):
    """Set the factors to U·√σ and V·√σ."""
    params[0].data.copy_(u * s.sqrt())
    params[1].data.copy_(v * s.sqrt())


def dot(a, b):
    """Return the inner product of two lists of tensors, or of two tensors."""
    pairs = zip(a, b, strict=True) if isinstance(a, list | tuple) else [(a, b)]
    return sum((x * y).sum() for x, y in pairs)


def solve(apply, right, steps, tolerance):
    """Return x of apply(x) = right for a positive map of lists of tensors, by conjugate gradients.

    From zero, so that of several solutions it is the one of least norm.
    """
    x, r = [torch.zeros_like(b) for b in right], list(right)
    along, square = list(r), dot(r, r)
    goal = tolerance**2 * square
    for _ in range(steps):
        if square <= goal:
            break
        image = apply(along)
        rate = square / dot(along, image)
        x = [a + rate * b for a, b in zip(x, along, strict=True)]
        r = [a - rate * b for a, b in zip(r, image, strict=True)]
        fresh = dot(r, r)
        along = [a + fresh / square * b for a, b in zip(r, along, strict=True)]
        square = fresh
    return x
