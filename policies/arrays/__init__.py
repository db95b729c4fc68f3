"""Updates with gradients derived by hand: small perceptrons on a CPU.

Most of the time of their updates in torch goes into the bookkeeping of automatic differentiation. Here an
optimizer step is about eighty calls on buffers that stay, into torch without autograd where there is much to
do (Adam, and whole layers of many steps), else into numpy, whose calls cost less. Both see the same memory.
Read in this order:

    ``rows``         shuffled rows; a step of an episode is a column
    ``perceptrons``  outputs of policy and value, side by side, and the gradient in their weights
    ``actions``      log π, entropy, KL, and the gradient in the policy's outputs
    ``slopes``       losses and their slopes in log π: what an algorithm brings
    ``steps``        optimizers and clipping on a block of weights
    ``arena``        memory that one training leaves to the next
    ``networks``     the networks in training, and the proximal policy
    ``epochs``       the passes over a batch

The numbers are those of ``policies.epochs`` but for the rounding of float32; ``policies.passes`` chooses.
"""
