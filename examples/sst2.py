"""Fine-tune MiniLM to classify the sentiment of sentences, on 20 clients with skewed labels.

    python examples/sst2.py MODEL TRAIN TEST

TRAIN and TEST have the columns text and label. The labels of each client are distributed by Dirichlet(0.5, …). The
trained model is a plain transformers module.
"""

import sys

import fedloru as fl

folder, train, test = sys.argv[1:]
texts = fl.hf.texts(fl.hf.tokenizer(folder), train, fl.hf.Classify("text", "label"), test=test, max_length=48)
clients = fl.data.dirichlet(texts, clients=20, alpha=0.5)
model = fl.hf.load(folder, task="classify", classes=texts.classes)
net = fl.hf.attach(model, rank=4, alpha=32, targets=["bert.encoder.*", "bert.pooler.*"])
recipe = fl.Recipe("adamw", lr=1e-3, steps=8, batch_size=16, clip=1.0, schedule="cosine", bucket=True)
run = fl.run(net, fl.fedloru(), texts, clients, rounds=30, cohort=10, recipe=recipe, eval_every=5)
for row in run:
    sent = (row["up_bytes_total"] + row["down_bytes_total"]) / 1e6
    accuracy = f"  accuracy {row['test_accuracy']:.3f}" if row["test_accuracy"] is not None else ""
    print(f"round {row['round']:2}  loss {row['train_loss']:.3f}  sent {sent:.1f} MB{accuracy}")
trained = run.model()  # a transformers module with the factors merged
