"""Where the data of a run comes from: embedded, tables, texts, arrays or image folders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedloru.config.fields import Expected, Flag, Fraction, Section, Text, Texts, Whole


class _Data(Section):
    test_fraction: Fraction = 0.2
    """Part of each class that is held out to test on, where the source has no test set of its own."""
    seed: Whole = 0
    """Draws what is held out. It does not follow the run's seed, so that runs are tested on the same examples."""


class EmbeddedData(_Data):
    """Data that needs no file: 5,000 MNIST digits (28×28), 1,797 digits (8×8), or made-up vectors."""

    source: Literal["mnist5k", "digits", "synthetic"] = "mnist5k"
    """Where the examples come from."""


class TableData(_Data):
    """Parquet files of encoded images, or a data set of the Hugging Face hub."""

    source: Literal["parquet", "hub"] = "parquet"
    """Where the examples come from."""
    path: Text
    """A file or folder, seen from the working directory; for the hub also the name of a data set."""
    image: Text = "image"
    """The column of encoded images."""
    label: Text = "label"
    """The column of labels."""
    columns: Texts = []
    """Further columns to keep, for natural partitions."""


class TextData(_Data):
    """Texts for a language model: instructions, texts with classes, or plain texts."""

    source: Literal["text"] = "text"
    """Where the examples come from."""
    path: Text
    """A file of parquet or JSON lines, or a folder, seen from the working directory; or a name on the hub."""
    test: Text | None = None
    """A second file to test on, or the name of a split; where left out, the split test, or a part of the texts."""
    subset: Text | None = None
    """Which of several subsets of a hub's data set."""
    test_fraction: Fraction = 0.2
    """Part that is held out to test on where there is no test set: of each class, or of each value of the columns."""
    kind: Literal["instruct", "classify", "plain"] = "instruct"
    """Prompts with responses, texts with classes, or texts to go on with."""
    prompt: Text = "prompt"
    """The column of prompts (instruct), for the templates alpaca and chat."""
    context: Text | None = None
    """The column of what prompts are about, where there is one (instruct), for the templates alpaca and chat."""
    response: Text = "response"
    """The column of responses (instruct)."""
    template: Text = "alpaca"
    """What makes a prompt (instruct): alpaca, chat (the tokenizer's own), or such as 'Question: {question}\n'."""
    text: Text = "text"
    """The column of texts (classify, plain)."""
    label: Text = "label"
    """The column of classes (classify)."""
    labels: Texts = []
    """The names of the classes in order (classify); where left out, those of the source, or sorted."""
    max_length: Annotated[int, Field(ge=2), Expected("a whole number from 2")] = 512
    """Tokens of an example at most; what is beyond is cut off, and the rest of a plain text is another example."""
    pack: Flag = False
    """Whether examples share blocks of max_length, in which they see those before (instruct, plain); or are padded."""
    columns: Texts = []
    """Further columns to keep, for natural partitions; packed examples have the same values of them all."""


class ArrayData(_Data):
    """A NumPy archive with the arrays x and y, and perhaps x_test and y_test."""

    source: Literal["npz"] = "npz"
    """Where the examples come from."""
    path: Text
    """The file, seen from the working directory."""
    columns: Texts = []
    """Further arrays to keep, for natural partitions."""


class FolderData(_Data):
    """Image files in path/train/CLASS and path/test/CLASS, or in path/CLASS."""

    source: Literal["folder"] = "folder"
    """Where the examples come from."""
    path: Text
    """The folder, seen from the working directory."""


Data = EmbeddedData | TableData | TextData | ArrayData | FolderData
