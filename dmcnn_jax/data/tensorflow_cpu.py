"""Imports TensorFlow as `tf`, limited to the CPU: JAX uses the accelerators."""

import os

# Hides TensorFlow's messages on import, which don't concern users of this package. The message on
# oneDNN appears at every log level unless oneDNN is disabled; decoding and cropping JPEGs don't use
# oneDNN.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

try:
    import tensorflow as tf
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "tf.data needs TensorFlow, which is not installed; pip install 'dmcnn-jax[data]', or train "
        "on a folder or a pack with config.data.pipeline 'device'"
    ) from missing

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

__all__ = ["tf"]
