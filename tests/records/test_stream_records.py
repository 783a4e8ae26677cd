"""The stability-gap metrics of the committed records, computed again from their curves."""

import json
from pathlib import Path

import pytest

BOARD = Path(__file__).parents[2] / "results" / "board"


def records():
    """Yield the board's records of streams whose tasks end and whose quality is an accuracy."""
    for path in sorted(BOARD.glob("stream_*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            found = line.get("continual") or {}
            if "value" in found.get("strict", {}).get("minimum", {}) and "accuracy" in (
                line["metric"].replace("last_learning", "accuracy")
            ):
                yield line


def again(ends, curves):
    """The metrics of arXiv 2205.13452 and the gap's, one loop each, from {step: accuracy}."""
    n, last = len(ends), ends[-1]
    lowest = [min(v for t, v in curves[i].items() if t > ends[i]) for i in range(n - 1)]
    depths, areas, recoveries = [], [], []
    for k in range(1, n):
        start, end = ends[k - 1], ends[k]
        falls, area, fallen = [], 0.0, False
        for curve in curves[:k]:
            after = sorted(t for t in curve if start < t <= end)
            falls.append(curve[start] - min(curve[t] for t in after))
            lacks = [0.0, *(max(0.0, curve[start] - curve[t]) for t in after)]
            for i, t in enumerate(after):
                area += (t - [start, *after][i]) * (lacks[i] + lacks[i + 1]) / 2
        for t in sorted(t for t in curves[0] if start < t <= end):
            low = any(t in c and c[t] < 0.9 * c[start] for c in curves[:k])
            if fallen and not low:
                recoveries.append(t - start)
                break
            fallen = fallen or low
        depths.append(max(falls))
        areas.append(area)
    return {
        "average": sum(c[last] for c in curves) / n,
        "learning": sum(c[end] for c, end in zip(curves, ends, strict=True)) / n,
        "forgetting": sum(c[e] - c[last] for c, e in zip(curves, ends[:-1])) / (n - 1),
        "minimum": sum(lowest) / (n - 1),
        "worst_case": (curves[-1][last] + sum(lowest)) / n,
        "gap_depth": sum(depths) / len(depths),
        "gap_depth_most": max(depths),
        "gap_area": sum(areas) / len(areas),
        "gap_recovery": sum(recoveries) / len(recoveries) if recoveries else None,
    }


# What a curve with some of its points left out, but for the ends of tasks, still bounds.
BOUNDED = {"minimum": 1, "worst_case": 1, "gap_depth": -1, "gap_depth_most": -1}


def test_the_metrics_of_every_record_are_those_of_its_curves():
    """A record keeps some points of a long curve: then they bound the metrics from one side."""
    whole = bounded = 0
    for line in records():
        ends, curves = line["stream"]["ends"], [dict(c) for c in line["stream"]["groups"]]
        told = {k: v.get("value") for k, v in line["continual"]["strict"].items()}
        where, second = line["run_id"], again(ends, curves)
        if len(curves[0]) == line["continual"]["evaluations"]:
            whole += 1
            for name, value in second.items():
                assert told[name] == (value and pytest.approx(value, abs=1e-9)), (where, name)
            continue
        bounded += 1
        for name in ("average", "learning", "forgetting"):
            assert told[name] == pytest.approx(second[name], abs=1e-9), (where, name)
        for name, side in BOUNDED.items():
            assert side * (second[name] - told[name]) > -1e-9, (where, name)
        assert told["worst_case"] <= told["average"] + 1e-9
    assert whole >= 10
    assert bounded >= 40


def test_every_record_of_a_stream_has_the_metrics_of_the_gap_or_a_reason():
    names = {"minimum", "worst_case", "gap_depth", "gap_area", "gap_area_transient", "gap_recovery"}
    seen = set()
    for path in sorted(BOARD.glob("stream_*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            if "run_id" in line and line["outcome"] in ("reached", "out_of_budget"):
                for convention in ("strict", "delange_code"):
                    metrics = line["continual"][convention]
                    assert names <= metrics.keys(), line["run_id"]
                    assert all(len(metrics[name]) == 1 for name in names)
                seen.add(line["submission"])
    assert len(seen) >= 16
