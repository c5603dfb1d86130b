"""TensorFlow with two CPU devices, so that what is for several devices runs on any machine. To be imported before
anything starts TensorFlow: that is when it divides the CPU, for good."""

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
