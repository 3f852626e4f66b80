"""Differentiable neural architecture search for person re-identification.

From Python the commands are the functions of ``dcs_nas.api``:

    from dcs_nas import api

    run = api.search("configs/demo.yaml", ["data.root=/data/people"])
    trained = api.retrain("configs/demo.yaml", ["data.root=/data/people"], genotype=run.genotype)
    api.evaluate(trained)
"""

__version__ = "0.1.0"
