"""Where TensorFlow's compiler, XLA, pays."""

from __future__ import annotations

from strategies.mnist.models import Conv, Model


def use_xla(model: Model, device: str, replicas: int) -> bool:
    """Whether to compile a whole window of steps: for dense models on one CPU device.

    Thousands of samples/s on 2 cores of a server's CPU, and the first call's seconds, trace and
    compilation included. "nested" compiles the forward and backward pass alone, which is all that
    can be compiled where gradients are exchanged between logical CPUs.

    ===============  ==========  ==========  ==========  ==========  ==========
    model, batch     1, without  1, window   1, nested   2, without  2, nested
    ===============  ==========  ==========  ==========  ==========  ==========
    softmax    100   593  0.12   862  0.36   574  0.36   662  0.23   583  0.60
    mlp         32   119  0.20   189  0.38   119  0.39   128  0.43   127  0.70
    mlp        100   186  0.15   215  0.42   176  0.40   191  0.26   239  0.74
    mlp256      32    78  0.24    98  0.42    77  0.41    81  0.51    87  0.84
    mlp256     100   105  0.13   109  0.46    96  0.46   135  0.28   152  0.82
    lenet      100    18  0.30     1  1.89     6  1.52    20  0.36     6  4.22
    ===============  ==========  ==========  ==========  ==========  ==========

    So "nested" is not worth its compilation, and XLA's convolutions on CPUs are none to use; that
    of a pool's gradient also refuses to be deterministic. On GPUs nothing could be measured, and
    XLA needs parts of CUDA there that a system may lack: it stays off.
    """
    convolves = any(isinstance(layer, Conv) for layer in model.layers)
    return device == "cpu" and replicas == 1 and not convolves
