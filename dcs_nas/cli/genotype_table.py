"""A genotype as tables on the terminal."""

from __future__ import annotations

from dcs_nas.cli.console import table
from dcs_nas.space import AnyGenotype, ChainGenotype


def show_genotype(genotype: AnyGenotype) -> None:
    """Print the cells of a genotype, or the stages of a chain."""
    if isinstance(genotype, ChainGenotype):
        rows = []
        for number, stage in enumerate(genotype.stages, start=1):
            for k, block in enumerate(stage.slots(), start=1):
                place = f"{number}.{k}"
                if block is None:
                    rows.append([place, "skipped", "", "", ""])
                else:
                    excite = "yes" if block.squeeze_excite else ""
                    kernel = f"{block.kernel}x{block.kernel}"
                    rows.append([place, kernel, str(block.expansion), str(block.width), excite])
            rows.append([f"{number}", f"attention: {stage.attention}", "", "", ""])
        table("chain", ["block", "kernel", "expansion", "width", "squeeze-excite"], rows, words=True)
        return
    for kind, cell in genotype.cells.items():
        rows = [[str(i), *(f"{e.op} <- {e.source}" for e in edges)] for i, edges in enumerate(cell.nodes)]
        columns = ["node", *(f"edge {k + 1}" for k in range(genotype.space.edges_per_node))]
        table(f"{kind} cell, attention: {cell.attention}", columns, rows, words=True)
