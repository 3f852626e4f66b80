"""An operation of your own: a channel shuffle after a grouped convolution, for edges of a cell."""

from torch import nn

from dcs_nas.models.operations import OPERATIONS


@OPERATIONS.register("shuffle_conv")
def shuffle_conv(channels, stride, *, height, width, affine):
    """Map (B, channels, H, W) to (B, channels, height, width), H = height * stride."""
    groups = 2 if channels % 2 == 0 else 1
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=groups, bias=False),
        nn.ChannelShuffle(groups),
        nn.BatchNorm2d(channels, affine=affine),
    )
