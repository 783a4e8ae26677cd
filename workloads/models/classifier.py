"""Small image classifiers with separate features and readout."""

from types import SimpleNamespace

from torch import Tensor, nn

from harness.errors import UserError, nearest


class Classifier(nn.Module):
    """Pixels uint8 [B, side * side] to logits [B, classes]: `features`, then a linear `readout`.

    Args:
        config: kind ("mlp" or "convnet"), width, depth, side, classes, mean and std of the pixels
            over 255. An mlp has `depth` hidden layers of `width`; a convnet `depth` stages of
            convolution, group norm and pooling; the first has `width` channels, each later one
            twice as many as the one before. ReLU everywhere; torch's initialisation.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        if config.kind not in ("mlp", "convnet"):
            known = nearest(str(config.kind), ("mlp", "convnet"))
            raise UserError(f"model.kind={config.kind!r} is unknown", known)
        self.side, self.mean, self.std = config.side, config.mean, config.std
        layers: list[nn.Module] = []
        if config.kind == "mlp":
            inputs = config.side**2
            for _ in range(config.depth):
                layers += [nn.Linear(inputs, config.width), nn.ReLU()]
                inputs = config.width
        else:
            layers, channels, side = (
                [nn.Unflatten(1, (1, config.side, config.side))],
                1,
                config.side,
            )
            for i in range(config.depth):
                wide = config.width << i
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.GroupNorm(4, wide)]
                layers += [nn.ReLU(), nn.MaxPool2d(2)]
                channels, side = wide, side // 2
            layers.append(nn.Flatten())
            inputs = channels * side**2
        self.body = nn.Sequential(*layers)
        self.readout = nn.Linear(inputs, config.classes)
        self.readout.role = "readout"

    def features(self, pixels: Tensor) -> Tensor:
        """Return the readout's input, [B, its width]."""
        scaled = pixels.float().sub_(255 * self.mean).mul_(1 / (255 * self.std))
        return self.body(scaled)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.readout(self.features(pixels))
