"""Stanford Alpaca, 52,002 instructions, three epochs."""

from inlay.data import SYSTEM_TEMPLATE

_base_ = ["data_chat.py"]

data_path = "tatsu-lab/alpaca"
data_format = "alpaca"
val_fraction = 0.0
max_epochs = 3
SYSTEM = SYSTEM_TEMPLATE.alpaca
