"""Every shipped model with convolutions, so narrow that oneDNN would write outside its memory on a processor without
AVX-512, and a model of one's own.

``ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.backends.narrow_models torch FOLDER`` trains them as such a processor does.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dataecho.backends.torch_model import TorchModel
from dataecho.build import build
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings, Task
from tests.support import config

NUM_ROWS, NUM_STEPS, NUM_STEPS_OF_OWN = 16, 30, 200
FEW = ("task.train.num_examples=16", "task.eval.num_examples=16")
BOXES = tuple(
    f"task.default_boxes.{name}" for name in ("image_size=48", "maps=[6,3,1]", "steps=[8,16,48]", "sizes=[10,18,27,40]")
)
SMALL = {
    "digits": (),
    "images": (*FEW, "task.train.pixels=48", "task.eval.pixels=48", "task.image_size=32"),
    "cifar10_resnet32": FEW,
    "imagenet_resnet50": (*FEW, "task.train.pixels=48", "task.eval.pixels=48", "task.image_size=32"),
    "coco_ssd": (*FEW, *BOXES),
}
WIDTHS = ((1, 2), (4, 6), (7, 7))


def narrow(name: str, widths: tuple[int, int]) -> tuple[str, ...]:
    """The overrides that make the task ``name`` as narrow as that."""
    model = "task.models.torch"
    if name == "digits":
        return ("task=digits", *(f"task.models.{one}.channels={list(widths)}" for one in ("torch", "tensorflow")))
    own = [f"{model}.widths={list(widths)}", f"{model}.virtual_batch_size=null"]
    if name == "images":
        own.append(f"task.models.tensorflow.widths={list(widths)}")
    if name in ("imagenet_resnet50", "coco_ssd"):
        own.append(f"{model}.num_blocks=[1,2]")
    if name == "coco_ssd":
        own.append(f"{model}.extras={[list(widths), list(widths)]}")
    return (f"task={name}", *SMALL[name], *own)


class Own(TorchModel):
    """``image`` float32 [b, 4, 24, 24] and ``label`` [b]; the convolution of the report, called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 8, 1, stride=2)
        self.linear = nn.Linear(8, 10)
        self.to(memory_format=torch.channels_last)

    def losses(self, batch):
        images = batch["image"].contiguous(memory_format=torch.channels_last).requires_grad_()
        hidden = functional.relu(self.narrow(input=images)).mean(dim=(2, 3))
        return functional.cross_entropy(self.linear(hidden), batch["label"].long(), reduction="none")

    def outputs(self, batch):
        return {"loss": self.losses(batch)}


def own_batch() -> Batch:
    draws = np.random.default_rng(0)
    images = draws.normal(size=(NUM_ROWS, 4, 24, 24)).astype(np.float32)
    source = ArraySource({"image": images, "label": np.arange(NUM_ROWS) % 10})
    with once_through(source, (), batch_size=NUM_ROWS) as batches:
        return next(batches)


def task_and_batch(name, widths, folder):
    cache = f"{folder}/{name}"
    places = () if name == "digits" else (f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}")
    task = build(config(*narrow(name, widths), *places)["task"], Task, key="task")
    with once_through(task.eval_source(), task.eval_stages(), batch_size=NUM_ROWS) as batches:
        return task, next(batches)


def context(new_model) -> BackendContext:
    return BackendContext(
        new_model=new_model,
        optimizer=OptimizerSettings(name="momentum", learning_rate=1.0),
        accelerator=AcceleratorSettings(name="cpu"),
        seed=0,
    )


def context_of(task, framework) -> BackendContext:
    return context(lambda: build(task.models[framework], object, key=f"task.models.{framework}"))


def train(trained, batch, *, num_steps) -> float:
    """The mean loss."""
    placed = trained.put(batch)
    for _ in range(num_steps):
        trained.train_step(placed, learning_rate=1e-3)
    return trained.take_loss()


def main(framework: str, folder: str) -> None:
    if framework == "torch":
        from dataecho.backends.torch_backend import TORCH_FOLDER
        from dataecho.backends.torch_backend import TorchBackend as NewBackend

        for compiled in (False,) if " " in TORCH_FOLDER else (False, True):
            own = NewBackend(context(Own), compile=compiled, compute_threads=1)
            train(own, own_batch(), num_steps=NUM_STEPS_OF_OWN)
    else:
        from dataecho.backends.tensorflow_backend import TensorflowBackend as NewBackend
    for name in SMALL:
        task, batch = task_and_batch(name, (4, 6), folder)
        loss = train(NewBackend(context_of(task, framework)), batch, num_steps=NUM_STEPS)
        assert np.isfinite(loss), name
        print(name, loss)
    print("all of them were trained")


if __name__ == "__main__":
    main(*sys.argv[1:])
