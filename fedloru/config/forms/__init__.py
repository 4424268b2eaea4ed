"""The sections that come in several forms: one key names the form, and each form has keys of its own.

A data source, a partition scheme, a model, a method and a server rule each take only what they use, so that a
setting without effect is an error and not a surprise. A file for each section ends with all its forms, in the order in
which they are told; the first is the default.
"""

from fedloru.config.forms.data import Data, EmbeddedData, FolderData, TextData
from fedloru.config.forms.method import Accumulating, FedAvg, FlexLoRA, Method, PFedLoRU
from fedloru.config.forms.model import LanguageModel, Model, OwnModel
from fedloru.config.forms.partition import Dealt, NaturalPartition, Partition
from fedloru.config.forms.server import NoServer, Server

__all__ = [
    "Accumulating",
    "Data",
    "Dealt",
    "EmbeddedData",
    "FedAvg",
    "FlexLoRA",
    "FolderData",
    "LanguageModel",
    "Method",
    "Model",
    "NaturalPartition",
    "NoServer",
    "OwnModel",
    "PFedLoRU",
    "Partition",
    "Server",
    "TextData",
]
