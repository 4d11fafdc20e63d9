"""The user's own conversations, one epoch, a twentieth held out."""

_base_ = ["data_chat.py"]

data_path = "data.json"
val_fraction = 0.05
max_epochs = 1
