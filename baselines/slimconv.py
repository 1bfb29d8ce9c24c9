"""SlimConv: a slim layer in place of each 3x3 convolution, trained from scratch.

Paper: Qiu et al. 2021, "SlimConv: Reducing Channel Redundancy in Convolutional Neural Networks by Features Recombining" (IEEE
Transactions on Image Processing; preprint "... by Weights Flipping", arXiv 2003.07469).
Equation: w = sigmoid(conv1x1(ReLU(BN(conv1x1(mean of x over positions))))), with C, C/32 and C channels; w' = w with its channels
in reverse order; fold(x) = first half of the channels of x + second half; output = [BN(conv3x3(fold(w x))) to C/2 channels,
BN(conv3x3(ReLU(BN(conv1x1(fold(w' x)))))) to C/4 channels], so C/k channels with k = 4/3.
Official repository: JiaxiongQ/SlimConv (SC-ResNet.py).
Reads the channel: nowhere, no channel is scored or removed. The layer is fgp/models/slimconv.py.
Deviations:
1. k = 4/3, as in the public code: ResNet-50 on ImageNet has the published 16.76 M parameters and 2.65 G MACs; with our stem for
   small images and 10 classes 14.72 M and 828.7 M. The FGP paper prints 14.83 M (0.7 % more) and 853.5 M (3.0 % more), and gives
   no k; k = 8/3 (folded to C/4, then C/4 + C/8 channels: the published 12.10 M and 1.88 G on ImageNet) has 10.06 M and 576.6 M.
2. VGG-16 (ours, the authors have none; 4.00 M parameters and 89.0 M MACs for 10 classes): every convolution but the first, which
   has 3 input channels, is replaced; where C outputs were, 3C/4 are, and the next layer, or the classifier, takes as many.
3. Channel numbers that 2, 4 or 32 do not divide (small widths): fractions are rounded to the nearest integer, at least 1; the
   middle one of an odd number of channels is folded onto itself.
4. The training recipe is the suite's.
"""

from __future__ import annotations

from fgp.methods import Method

METHOD = Method(
    label="SlimConv",
    kind="architecture",
    tasks=frozenset({"classification"}),
    paper_name="SlimConv",
    networks={"vgg16": "slimconv_vgg16", "resnet50": "slimconv_resnet50"},
)
