"""SmolVLM-500M: F-LMM's recipe on a model that it never saw, with the model's own prompt."""

_base_ = [
    "../_base/settings_grounding_hf.py",
    "../_base/tokenizer_vlm.py",
    "../_base/model_grounding.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "HuggingFaceTB/SmolVLM-500M-Instruct"
