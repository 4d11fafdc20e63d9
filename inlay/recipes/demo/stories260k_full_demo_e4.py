"""The demo: a story teller of 260,032 weights learns to chat in a minute on a CPU."""

_base_ = [
    "../_base/settings.py",
    "../_base/model_full.py",
    "../_base/data_custom.py",
    "../_base/optim.py",
    "../_base/runtime.py",
]

pretrained_model_name_or_path = "model"
data_path = "conversations.json"
val_fraction = 0.1
# The tokenizer has 512 tokens and no special ones for chat: plain words mark the turns.
prompt_template = dict(SYSTEM="{system}\n", INSTRUCTION="User: {input}\nBot:", SEP="\n")
max_length = 512
batch_size = 2
accumulative_counts = 1
max_epochs = 4
lr = 5e-3
betas = (0.9, 0.99)
save_steps = 100
evaluation_freq = 1000
evaluation_inputs = ["Who are you?", "Tell me a story about a dog."]
