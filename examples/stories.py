"""Fine-tune a Llama of 260,000 parameters on instructions, on five clients, and generate an answer.

    python examples/stories.py MODEL FILE

FILE has the columns instruction, input and output, as the 175 seed tasks of Self-Instruct do. The perplexity of
the responses falls, but a model this small never answers.
"""

import sys

import torch

import fedloru as fl

folder, path = sys.argv[1:]
tokenizer = fl.hf.tokenizer(folder)
kind = fl.hf.Instruct(prompt="instruction", context="input", response="output")
texts = fl.hf.texts(tokenizer, path, kind, max_length=256)
clients = fl.data.iid(texts, clients=5)
net = fl.hf.attach(fl.hf.load(folder), rank=8, alpha=16)
recipe = fl.Recipe("adamw", lr=3e-3, batch_size=4, clip=1.0, bucket=True)
run = fl.run(net, fl.fedloru(), texts, clients, rounds=10, cohort=3, recipe=recipe)
for row in run:
    print(f"round {row['round']:2}  perplexity {row['test_perplexity']:.1f}")

prompt = "### Instruction:\nSay something nice.\n\n### Response:\n"
ids = torch.tensor([tokenizer(prompt)["input_ids"]])
generated = run.model().generate(ids, max_new_tokens=32, do_sample=False)
print(tokenizer.decode(generated[0], skip_special_tokens=True))
