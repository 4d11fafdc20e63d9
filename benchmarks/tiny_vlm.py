"""What the tiny VLM that ships with the package sees, on combinations that training never showed.

Exact answers by kind of question, beside the most frequent answer and the same model with another
scene's picture. Run: ``python benchmarks/tiny_vlm.py [MODEL] [--count N]``, on a CPU.
"""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from pathlib import Path

import torch

from inlay.app.demo.scenes import MODEL, answerer
from inlay.data.scenes.build import TEST_SPLITS
from inlay.evaluation.ask import Answer, ask
from inlay.evaluation.scenes import SceneTask

SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="folder; the shipped one by default")
    parser.add_argument("--count", type=int, default=200, help="scenes of each split (200)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with as_file(files("inlay.app") / "demo_data" / MODEL) as shipped:
        answer = answerer(Path(args.model) if args.model else shipped)
    print(f"{args.count} scenes of each split, seed {SEED}")
    for split in TEST_SPLITS:
        report(answer, split, args.count)


def report(answer: Answer, split: str, count: int) -> None:
    """Print the shares of one split."""
    task, blind = (SceneTask(split, count, SEED, swapped=swapped) for swapped in (False, True))
    seen, unseen = (
        t.score(ask(t.questions, answer, t.max_new_tokens)).scores for t in (task, blind)
    )
    print(f"\n{split}: {len(task.questions)} questions")
    print(f"  accuracy          {seen['accuracy']:6.1%}")
    print(f"  majority answer   {seen['majority']:6.1%}")
    print(f"  picture swapped   {unseen['accuracy']:6.1%}")
    for kind, share in seen["kinds"].items():
        print(f"    {kind:<12} {share:6.1%}   swapped {unseen['kinds'][kind]:6.1%}")


if __name__ == "__main__":
    main()
