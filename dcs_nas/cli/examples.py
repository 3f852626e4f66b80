"""Two examples of every command, with which its ``--help`` ends; ``tests/test_examples.py`` parses them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, str]] = {
    "synth": ("dcs-nas synth people", "dcs-nas synth people --occlusion 60 --seed 1"),
    "search": (
        "dcs-nas search demo -o data.root=people -o search.epochs=5",
        "dcs-nas search market1501_search -o data.root=/data/market --resume",
    ),
    "pretrain": (
        "dcs-nas pretrain pretrain_imagenet -o data.root=/data/imagenet --genotype genotype.yaml",
        "dcs-nas pretrain pretrain_imagenet -o data.root=/data/imagenet --resume",
    ),
    "retrain": (
        "dcs-nas retrain demo -o data.root=people --genotype genotype.yaml",
        "dcs-nas retrain agw_r50 -o data.root=/data/market --out results/agw",
    ),
    "evaluate": (
        "dcs-nas evaluate results/demo/retrain --flip --rerank",
        "dcs-nas evaluate results/demo/retrain -o data.test_batch=64 --pictures 5",
    ),
    "rank": ("dcs-nas rank features.npz --metric cosine --json scores.json", "dcs-nas rank model.onnx --root people"),
    "extract": (
        "dcs-nas extract results/demo/retrain people/bounding_box_test --out gallery.npz",
        "dcs-nas extract model.onnx a.jpg b.jpg --out two.npz",
    ),
    "find": (
        "dcs-nas find results/demo/retrain query.jpg people/bounding_box_test --top 10",
        "dcs-nas find model.onnx query.jpg gallery.npz --out list.png",
    ),
    "visualize": (
        "dcs-nas visualize genotype.yaml --format svg,tikz --out figures",
        "dcs-nas visualize before.yaml after.yaml",
    ),
    "datasets": ("dcs-nas datasets market1501 --root /data/market", "dcs-nas datasets csv --root mine -o split=0.5"),
    "config": ("dcs-nas config demo --section search", "dcs-nas config search.guard.action"),
    "report": ("dcs-nas report results/demo", "dcs-nas report results/one results/two --out both.html"),
    "profile": ("dcs-nas profile genotype.yaml", "dcs-nas profile demo --batch 8 --latency-table latency.yaml"),
    "bench": ("dcs-nas bench", "dcs-nas bench results/bench/search --out standing.png"),
    "export": (
        "dcs-nas export results/demo/retrain --format onnx",
        "dcs-nas export results/demo/retrain --out model --checkpoint best",
    ),
    "weights": ("dcs-nas weights model.pth", "dcs-nas weights model.pth --backbone resnet50 --height 384"),
    "tune": ("dcs-nas tune tune_demo -o data.root=people", "dcs-nas tune tune_demo -o tune.trials=50 --resume"),
    "demo": ("dcs-nas demo", "dcs-nas demo --out results/mine -o search.epochs=2"),
    "runs": ("dcs-nas runs", "dcs-nas runs results/demo --html results/index.html"),
    "runs list": ("dcs-nas runs list results", "dcs-nas runs list results --html results/index.html"),
    "runs compare": (
        "dcs-nas runs compare results/one/retrain results/two/retrain",
        "dcs-nas runs compare results/demo/search results/demo/retrain",
    ),
    "runs delete": ("dcs-nas runs delete results/old", "dcs-nas runs delete results/a results/b --yes"),
}


def epilog(command: str) -> str:
    """Return the end of a command's help: its examples, one a line."""
    return "\n\n".join(["Examples:", *EXAMPLES[command]])
