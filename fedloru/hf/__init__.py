"""Language models: transformers models, tokenized texts to train them on, and text generation.

::

    import fedloru as fl

    texts = fl.hf.texts(fl.hf.tokenizer(folder), "texts.parquet", fl.hf.Classify("text", "label"))
    clients = fl.data.iid(texts, clients=3)
    net = fl.hf.attach(fl.hf.load(folder, task="classify", classes=texts.classes), rank=8)
    for row in fl.run(net, fl.fedloru(tau=10), texts, clients, rounds=3, cohort=2):
        print(row["round"], row["test_accuracy"])

``attach`` adds factors to the layers that the PEFT library adapts, ``make`` trains every weight, and ``adopt`` merges
an existing adapter before the run. ``fedloru.export`` exports the trained model. Examples are ``input_ids`` (N, T),
padded on the right, and ``length`` (N,), with ``labels`` (N, T) for a causal model (−100 for tokens without a loss) or
``y`` (N,) for a classifier. The libraries of the extra ``hf`` are imported on first use.
"""

from fedloru.hf.adapter import Adapter, save_adapter
from fedloru.hf.adopt import adopt
from fedloru.hf.encode import Classify, Instruct, Plain
from fedloru.hf.export import load_merged, named_base, save_merged
from fedloru.hf.models import load, positions, tokenizer
from fedloru.hf.nets import attach, make
from fedloru.hf.parts import draw_ids
from fedloru.hf.preparation import prepare, transposed
from fedloru.hf.targets import usual_targets
from fedloru.hf.text import load as texts

__all__ = [
    "Adapter",
    "Classify",
    "Instruct",
    "Plain",
    "adopt",
    "attach",
    "draw_ids",
    "load",
    "load_merged",
    "make",
    "named_base",
    "positions",
    "prepare",
    "save_adapter",
    "save_merged",
    "texts",
    "tokenizer",
    "transposed",
    "usual_targets",
]
