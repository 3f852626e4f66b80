"""Stands for ``python -m dcs_nas`` in the tests of the tune command: a run folder with metrics.csv, in no time.

Its mAP is best at a learning rate of 10^-3.5 and grows over the epochs. loss.ib_weight: 8 hangs with a child of its own
until it is stopped, 9 fails, 7 is bad and has many epochs, 6 has no mAP.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

arguments = sys.argv[1:]
given = [arguments[i + 1].partition("=") for i, word in enumerate(arguments) if word == "-o"]
values = {key: json.loads(value) for key, _, value in given}
folder = Path(arguments[arguments.index("--out") + 1])
assert ("--resume" in arguments) == (folder / "config.yaml").is_file()
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("began\n")
with (folder.parent / "began.txt").open("a") as file:
    file.write(f"{folder.name} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {' '.join(arguments)}\n")
if values.get("loss.ib_weight") == 9:
    print("all is well so far")
    print("dcs-nas: the loss is nan in step 3\n")
    sys.exit(1)
slow = values.get("loss.ib_weight") == 7
rows = ["epoch,train/loss,validation/mAP"]
for epoch in range(600 if slow else 3):
    score = math.exp(-((math.log10(values["retrain.lr"]) + 3.5) ** 2)) * (epoch + 1) / (3e6 if slow else 3)
    rows.append(f"{epoch},{1 - score},{score if epoch and values.get('loss.ib_weight') != 6 else ''}")
    (folder / "writing").write_text("\n".join(rows) + "\n")
    (folder / "writing").replace(folder / "metrics.csv")
    time.sleep(0.1 * slow)
    if values.get("loss.ib_weight") == 8 and not os.environ.get("FAKE_TRIALS_END"):
        child = subprocess.Popen(["sleep", "60"])
        (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(60)
