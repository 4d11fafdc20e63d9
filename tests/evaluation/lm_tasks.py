"""Tasks of lm-evaluation-harness on local data, one of each kind of request."""

from __future__ import annotations

import json
from pathlib import Path

TASKS = ("colours", "prose", "speech")
_DATA = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
"""
_KINDS = {
    "colours": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "prose": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
""",
    "speech": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{said}}"
generation_kwargs:
  until: ["{{stop}}"]
  max_gen_toks: 12
  do_sample: false
metric_list:
  - metric: exact_match
""",
}


def write_tasks(folder: Path, said: str = "yes", stop: str = ".") -> Path:
    """Write YAML files of ``TASKS`` with their data; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "question": f"Number {n}, which colour?",
            "choices": ["red", "dark blue", "ü"],
            "answer": n % 3,
            "text": "A bee and a cat. " * (n + 1),
            "said": said,
        }
        for n in range(7)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind in _KINDS.items():
        text = _DATA.format(name=name, file=file) + kind.replace("{{stop}}", stop)
        (folder / f"{name}.yaml").write_text(text)
    return folder
