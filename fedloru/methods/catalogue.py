"""All methods, one line each, in the order of the lists that users see."""

# ruff: isort: skip_file
from fedloru.methods.fedavg import fedavg as fedavg
from fedloru.methods.fedlora import fedlora as fedlora
from fedloru.methods.fedloru import fedloru as fedloru
from fedloru.methods.pfedloru import pfedloru as pfedloru
from fedloru.methods.mfedloru import mfedloru as mfedloru
from fedloru.methods.ffalora import ffalora as ffalora
from fedloru.methods.rolora import rolora as rolora
from fedloru.methods.fedsa import fedsa as fedsa
from fedloru.methods.flora import flora as flora
from fedloru.methods.fedex import fedex as fedex
from fedloru.methods.fedhm import fedhm as fedhm
from fedloru.methods.fedlmt import fedlmt as fedlmt
from fedloru.methods.fedmud import fedmud as fedmud
from fedloru.methods.fedpara import fedpara as fedpara
from fedloru.methods.flexlora import flexlora as flexlora
from fedloru.methods.hetlora import hetlora as hetlora
