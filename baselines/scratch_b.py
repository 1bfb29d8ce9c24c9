"""Scratch-B: FGP's pruned architecture trained from random weights for as many FLOPs as the dense network.

Paper: Liu et al. 2019, "Rethinking the Value of Network Pruning" (arXiv 1810.05270), Section 3: the epochs grow by the ratio
of dense to pruned FLOPs.
Equation: epochs = dense epochs * min(2, dense MACs / pruned MACs).
Official repository: Eric-mingjie/rethinking-network-pruning.
Reads the channel: nowhere; the plan is FGP's.
Deviations:
1. The architecture is FGP's at the same budget instead of a predefined one.
2. Always at most twice the epochs, as the paper does where a network is pruned to less than half the FLOPs.
"""

from fgp.methods import Method

METHOD = Method(label="Scratch-B", kind="scratch", plan_of="fgp", equal="flops")
