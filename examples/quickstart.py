"""FedLoRU from Python in a few lines: ten clients with skewed labels train a perceptron with factors of rank 4."""

import fedloru as fl

digits = fl.data.load("digits")
clients = fl.data.dirichlet(digits, clients=10, alpha=0.5)
model = fl.models.build("mlp", channels=1, size=8, classes=10, seed=0)
net = fl.attach(model, rank=4)
run = fl.run(net, fl.fedloru(), digits, clients, rounds=20, cohort=5)
for row in run:
    print(f"round {row['round']:2}  accuracy {row['test_accuracy']:.3f}  sent {row['up_bytes_total'] / 1e6:.2f} MB up")
