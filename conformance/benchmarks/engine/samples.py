"""What was measured: one row for each number, kept as it came, and medians over the rounds."""

import csv
import statistics

COLUMNS = ["part", "case", "side", "round", "metric", "value"]


class Samples:
    """All rows of a run. `keep` are rows of earlier runs, of parts that are not measured anew."""

    def __init__(self, keep=()):
        self.rows = list(keep)

    def add(self, part, case, side, round, metrics):
        for metric, value in metrics.items():
            self.rows.append(dict(zip(COLUMNS, [part, case, side, round, metric, float(value)])))
        told = "  ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        print(f"{part:12} round {round}  {case:28} {side:12} {told}", flush=True)

    def values(self, part, case, side, metric):
        wanted = dict(part=part, case=case, side=side, metric=metric)
        return [row["value"] for row in self.rows if all(row[name] == value for name, value in wanted.items())]

    def median(self, part, case, side, metric):
        """The median over the rounds, or None where this was not measured."""
        found = self.values(part, case, side, metric)
        return statistics.median(found) if found else None

    def cases(self, part):
        """The cases of a part in the order in which they were measured."""
        return list(dict.fromkeys(row["case"] for row in self.rows if row["part"] == part))

    def rounds(self, part):
        return max((row["round"] for row in self.rows if row["part"] == part), default=0)

    def write(self, path):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def read(path, parts):
    """The rows of a file that belong to none of `parts`."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            {**row, "round": int(row["round"]), "value": float(row["value"])}
            for row in csv.DictReader(file) if row["part"] not in parts
        ]
