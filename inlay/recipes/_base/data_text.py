"""The user's own plain text for continued pre-training, one epoch."""

_base_ = ["data_chat.py"]

data_path = "data.jsonl"
data_format = "text"
max_epochs = 1
evaluation_inputs = ["上海的景点有", "Shanghai is a city"]
