"""A vision transformer whose patches are made by convolutions with batch normalisation."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.errors import UserError
from workloads.models.vit import ViT


class Stem(nn.Module):
    """Images [B, channels, side, side] to tokens [B, rows · columns, width].

    Convolutions of 3 x 3 with stride 2, batch normalisation and ReLU after each but the last one.

    Args:
        channels: of a pixel.
        width: of a token; a convolution has half the channels of the next one.
        count: of the convolutions; each halves the side, rounding up.
        scale: multiplies the deviations of the initialisation, which is Kaiming's.
    """

    def __init__(self, channels: int, width: int, count: int, scale: float):
        super().__init__()
        layers: list[nn.Module] = []
        for left in reversed(range(count)):
            out = width // 2**left
            convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=left == 0)
            with torch.no_grad():
                convolution.weight.normal_(std=scale * (2 / (9 * channels)) ** 0.5)
                if convolution.bias is not None:
                    convolution.bias.zero_()
            layers.append(convolution)
            if left:
                layers += [nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).mT


class ConvViT(ViT):
    """ViT with a convolutional stem (Xiao et al., arXiv 2106.14881) in place of flat patches.

    Args:
        config: as ViT's, and `convolutions`, the number of the stem's; 2^convolutions pixels or a
            few less make a side of a patch.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        side = config.side
        for _ in range(config.convolutions):
            side = -(-side // 2)
        if side != config.side // config.patch or config.width % 2 ** (config.convolutions - 1):
            raise UserError(
                f"model.convolutions={config.convolutions} makes {side} x {side} tokens of "
                f"{config.width} channels",
                f"{config.side // config.patch} a side, as model.patch={config.patch} does, and a "
                f"width that can be halved {config.convolutions - 1} times",
            )
        self.embed = Stem(config.channels, config.width, config.convolutions, config.init_scale)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the images: the stem makes the tokens."""
        return images
