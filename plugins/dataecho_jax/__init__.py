"""Example of a third-party backend: plain JAX, added without a change to the core.

`python train.py backend=jax` trains the digits task with it; it needs the extra `dataecho[jax]`. What every plugin has
is described in `dataecho_cosine`. Here: what a model offers (`model.py`), the update formulas (`optimizers.py`), where
to compute (`devices.py`), the backend itself (`backend.py`), and a model for a task of the core (`digits.py`), which
`conf/model/jax/digits.yaml` brings to that task. A task of one's own names its JAX model itself, in `models`.
"""
