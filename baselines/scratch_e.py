"""Scratch-E: FGP's pruned architecture trained from random weights for as many epochs as the dense network.

Paper: Liu et al. 2019, "Rethinking the Value of Network Pruning" (arXiv 1810.05270), Section 3.
Equation: none, nothing is scored.
Official repository: Eric-mingjie/rethinking-network-pruning.
Reads the channel: nowhere; the plan is FGP's.
Deviations:
1. The architecture is FGP's at the same budget instead of a predefined one.
"""

from fgp.methods import Method

METHOD = Method(label="Scratch-E", kind="scratch", plan_of="fgp", equal="epochs")
