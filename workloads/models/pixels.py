"""A network on pixels in [0, 1], whose gradients in the pixels are of use."""

from types import SimpleNamespace

from torch import Tensor, nn


class PixelNet(nn.Module):
    """Pixels float [B, pixels] to logits [B, classes]: hidden ReLU layers, then a linear readout.

    Args:
        config: pixels, width, depth, classes, and mean and std that the pixels are scaled by.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.mean, self.std = config.mean, config.std
        layers: list[nn.Module] = []
        inputs = config.pixels
        for _ in range(config.depth):
            layers += [nn.Linear(inputs, config.width), nn.ReLU()]
            inputs = config.width
        self.body = nn.Sequential(*layers)
        self.readout = nn.Linear(inputs, config.classes)
        self.readout.role = "readout"

    def features(self, pixels: Tensor) -> Tensor:
        """Return the readout's input, [B, its width]."""
        return self.body((pixels - self.mean) / self.std)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.readout(self.features(pixels))
