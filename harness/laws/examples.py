"""Small examples for the laws, made here instead of prepared data: recipes that a YAML names."""

import torch
from torch import Tensor

from harness.errors import UserError, nearest

CLASSES = 10


def sentences(count: int, length: int, vocabulary: int) -> Tensor:
    """Return windows of tokens, int32 [count, length]: each token is 5 more than the one before."""
    first = torch.arange(count).mul(7)[:, None]
    return ((first + 5 * torch.arange(length)) % vocabulary).int()


def classes(per_class: int = 20, together: int = 1) -> Tensor:
    """Return the labels of the pictures, int64 [N], or the number of each group of classes.

    Args:
        together: how many classes one group has.
    """
    return torch.arange(CLASSES).repeat_interleave(per_class) // together


def pictures(shape: list[int], per_class: int = 20) -> Tensor:
    """Return pictures, uint8 [N, *shape]: noise over a pattern that a class has in common."""
    generator = torch.Generator().manual_seed(0)
    labels = classes(per_class)
    pixels = int(torch.tensor(shape).prod())
    patterns = 230 * torch.rand(CLASSES, pixels, generator=generator)
    images = patterns[labels] + 25 * torch.rand(len(labels), pixels, generator=generator)
    return images.byte().view(-1, *shape)


def points(count: int, width: int) -> Tensor:
    """Return points of norm 1, float64 [count, width]."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(0)).double()
    return drawn / drawn.norm(dim=1, keepdim=True)


def signs(count: int) -> Tensor:
    """Return 1 and -1 in turn, float64 [count]."""
    return 1.0 - 2.0 * (torch.arange(count) % 2).double()


def places(every: int, per_class: int = 20) -> Tensor:
    """Return the numbers of the first of every so many pictures, int64."""
    return torch.arange(0, CLASSES * per_class, every)


def sets(per_class: int = 20) -> Tensor:
    """Return for each picture the set of its own class and the next, bool [N, CLASSES]."""
    own = torch.eye(CLASSES, dtype=torch.bool)
    return (own | own.roll(1, dims=1))[classes(per_class)]


def in_turn(count: int, per_class: int = 20) -> Tensor:
    """Return a number below `count` for each picture, in turn, int64 [N]."""
    return torch.arange(CLASSES * per_class) % count


def shares(shape: list[int], per_class: int = 20) -> Tensor:
    """Return the pictures as float numbers in [0, 1], [N, *shape]."""
    return pictures(shape, per_class).float() / 255


RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        sentences,
        classes,
        pictures,
        points,
        signs,
        places,
        sets,
        in_turn,
        shares,
    )
}


def make(examples: dict[str, dict], where: str) -> dict[str, Tensor]:
    """Return the tensors that a `tiny` block describes: {name: {recipe: arguments}}.

    Raises:
        UserError: a recipe or an argument is unknown.
    """
    tensors = {}
    for name, described in examples.items():
        recipe, arguments = next(iter(described.items()))
        if recipe not in RECIPES:
            raise UserError(
                f"{where}: examples.{name} is made by {recipe!r}", nearest(recipe, RECIPES)
            )
        try:
            tensors[name] = RECIPES[recipe](**arguments)
        except TypeError as error:
            raise UserError(f"{where}: examples.{name}: {error}") from None
    return tensors
