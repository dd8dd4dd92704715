"""Recovery without a restart: replica groups that agree on every step, built on torchft.

A replica group is a torchrun world of its own, of one or more nodes. All groups train the same model, each with a share
of every batch, and average their gradients. Before a step the groups that are there form a quorum; a newcomer takes the
state from one of them. After the backward pass each group votes: a step during which a group was lost is not committed,
but done again by the others. Source of the protocol: torchft's Manager and lighthouse (pytorch.org/torchft).
"""
