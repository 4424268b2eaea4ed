"""The model that is trained: one of ours, or a function of the user's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedloru.config.fields import Count, Counts, Expected, Flag, Section, Text, Whole


class _Model(Section):
    seed: Whole | None = None
    """Draws the initial weights; where left out, the run's seed."""


class Mlp(_Model):
    """A perceptron with ReLU; layers fc1, fc2, …."""

    name: Literal["mlp"] = "mlp"
    """The model; `python:package.module:function` calls a function of your own."""
    hidden: Counts = [200]
    """The widths of the hidden layers."""


class Cnn(_Model):
    """The two convolutions and two linear layers of the FedAvg paper: conv1, conv2, fc1, fc2."""

    name: Literal["cnn"] = "cnn"
    """The model; `python:package.module:function` calls a function of your own."""
    norm: Literal["none", "group", "batch"] = "none"
    """The normalisation after each convolution."""
    width: Count = 32
    """Channels of the first convolution; all else grows with it."""


class ResNet(_Model):
    """A residual network for small images: conv1, norm1, layer1, layer2, …, fc."""

    name: Literal["resnet8", "resnet10", "resnet18"] = "resnet8"
    """The model; `python:package.module:function` calls a function of your own."""
    norm: Literal["group", "batch"] = "group"
    """The normalisation after each convolution."""
    width: Count = 64
    """Channels of the first stage; all else grows with it."""


class OwnModel(_Model, extra="allow"):
    """A function of the user's that returns a torch module; all further keys are its arguments."""

    name: Annotated[str, Field(pattern=r"^python:[\w.]+:\w+$"), Expected("'python:package.module:function'")]
    """The model; `python:package.module:function` calls a function of your own."""


class LanguageModel(_Model):
    """A language model of transformers, from a folder or the hub; it classifies texts where these have classes."""

    name: Annotated[str, Field(pattern=r"^hf:.+$"), Expected("'hf:FOLDER' or 'hf:OWNER/NAME'")]
    """The model; `python:package.module:function` calls a function of your own."""
    revision: Text | None = None
    """The commit, 40 digits, that a name on the hub is taken at; it needs one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the weights; factors are float32 in any case."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """How attention is computed; where left out, as transformers chooses."""
    checkpointing: Flag = False
    """Whether layers are computed anew in the backward pass: less memory, a third more time."""
    adapter: Text | None = None
    """A folder with an adapter of PEFT, which is merged into the model before the first round."""
    trust_remote_code: Flag = False
    """Whether code that comes with the model may run here."""


Model = Cnn | Mlp | ResNet | OwnModel | LanguageModel
