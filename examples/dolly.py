"""Fine-tune SmolLM2-135M to follow instructions, on eight clients, one for each category of Dolly, 4 per round.

    python examples/dolly.py MODEL FILE RUN

FILE has the columns instruction, context, response and category; RUN is the run folder to create. Takes about 3 GB of
memory.
"""

import sys

import fedloru as fl

folder, path, out = sys.argv[1:]
kind = fl.hf.Instruct("instruction", "context", "response", template="chat")
texts = fl.hf.texts(fl.hf.tokenizer(folder), path, kind, columns=["category"], max_length=128, test_fraction=0.01)
clients = fl.data.natural(texts, "category")
net = fl.hf.attach(fl.hf.load(folder), rank=8, alpha=16)
recipe = fl.Recipe("adamw", lr=1e-3, steps=4, batch_size=2, bucket=True)
for row in fl.run(net, fl.fedloru(), texts, clients, rounds=6, cohort=4, recipe=recipe, out=out):
    print(f"round {row['round']}  perplexity {row['test_perplexity']:.2f}  {row['seconds']:.1f} s")
