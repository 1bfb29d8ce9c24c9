"""DCP: discrimination-aware channel pruning; channels are admitted one by one, by the gradient of their weights.

Paper: Zhuang et al. 2018, "Discrimination-aware Channel Pruning for Deep Neural Networks" (arXiv 1810.11809), Algorithms 1 and 2;
Liu et al. 2020, "Discrimination-aware Network Pruning for Deep Model Compression" (arXiv 2001.01050).
Equation: L_S^p = cross-entropy of a linear classifier on AvgPool(ReLU(BN(O_p))), p = 1 .. P; L_S^(P+1) = that of the logits.
L(W) = L_M + balance * L_S^p, L_M = mean of (O - O_dense)^2 over images, channels and positions of the output O of the layer with
weights W. In stage p the network is fine-tuned by L_S^p + L_S^(P+1); then each layer between position p - 1 and p starts from
W = 0, and in each turn t the input channel k with the largest ||dL/dW_k||_F gets its trained weights W_k, and all admitted ones
move by SGD, W <- W - lr dL/dW, BN frozen. s[k] = C - (turn in which k is admitted, from 0).
DCP-Adapt (option adapt) stops at |L(t - 1) - L(t)| / L(0) <= adapt; what is not admitted has score 0, so `cumulative-1.00` keeps
exactly the admitted channels.
Official repository: SCUT-AILab/DCP (dcp/auxnet, dcp/channel_selection).
Reads the channel: the gradient of the weights by which the next layers read it. The losses are in fgp/train/discrimination.py.
Deviations:
1. The paper stops at the asked number of channels, or by DCP-Adapt; here, without adapt, all are ordered and the selection stops.
2. So each layer is ordered in a network that is whole otherwise, where the paper's have lost channels already; and the SGD steps
   after an admission serve the order only: the network goes on with the weights of the stage's fine-tuning.
3. A turn reads the same `images` training images each time, with `iterations` steps of plain SGD; the repository goes over the
   training set twice, with Nesterov momentum and weight decay, and moves the bias too. `turns` admits several channels in each.
4. ||.||_F is over all weights of the channel, as in the paper; the repository adds up the norms of the kernels.
5. O_p is what the next convolution reads, in a residual network behind a block's sum as in the repository. Its spacing is kept:
   behind units 5, 10 (VGG-16, P = 2) and blocks 5, 10, 15 (ResNet-50, P = 3); other networks have P = 3 with sums, else 2.
6. Stages share the training's steps evenly, at the recipe's learning rate; the last has the network's own loss alone. In the
   repository one fine-tuning by all losses comes first, and O_dense is of the network after it.
7. The repository prunes the inputs of the last two convolutions of a block. Here every prunable group is ordered, by all layers
   that read it together; for the last group of VGG that is the classifier, with L_M on the logits.
8. Channels that reach a residual sum are left whole and score 1, unless the option residual is 1 (for `tied` tasks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from fgp.train.hooks import Hook

METHOD = Method(
    label="DCP",
    kind="sparse-training",
    needs=frozenset({"weights", "forward", "gradient", "labels"}),
    tasks=frozenset({"classification"}),
    start="dense",
)


def training(
    *,
    losses: Annotated[
        int | None,
        Field(ge=0, description="P, classifiers on inner feature maps; if left out 2, or 3 in a network with residual sums"),
    ] = None,
    images: Annotated[int, Field(ge=1, description="training images that the selection reads")] = 256,
    turns: Annotated[
        int | None,
        Field(ge=1, description="at most so many a layer, each admits equally many channels; if left out one channel a turn"),
    ] = None,
    iterations: Annotated[int, Field(ge=0, description="SGD steps after each admission")] = 1,
    lr: Annotated[float, Field(ge=0, description="their learning rate")] = 0.01,
    balance: Annotated[float, Field(ge=0, description="the paper's lambda")] = 1.0,
    adapt: Annotated[
        float | None, Field(ge=0, description="the paper's epsilon, 0.001 there for VGG; if left out all channels are ordered")
    ] = None,
    residual: Annotated[bool, Field(description="order the channels that reach residual sums too")] = False,
) -> Hook:
    """Return the stages of fine-tuning with the selection at the end of each; the hook's `scores()` are the method's.

    Raises:
        FgpError: in training, the task is no classification.
    """
    from fgp.train.discrimination import Discrimination, Settings

    return Discrimination(Settings(losses, images, turns, iterations, lr, balance, adapt, residual))


training = checked(training)
