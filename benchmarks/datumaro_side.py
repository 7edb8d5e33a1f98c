"""What Datumaro does with a folder in MVTec's layout; run by the Python that has it.

    python datumaro_side.py FOLDER OUT REPEATS   times import + export to YOLO, without media
    python datumaro_side.py FOLDER OUT boxes     prints the boxes that it finds

Prints one line of JSON.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time

import datumaro

logging.disable(logging.WARNING)


def export(folder: str, out: str) -> tuple[float, float]:
    """Convert once; return the seconds on the wall and of the processor."""
    shutil.rmtree(out, ignore_errors=True)
    started, processor = time.perf_counter(), time.process_time()
    data = datumaro.Dataset.import_from(folder, "mvtec_detection")
    data.export(out, "yolo", save_media=False)
    return time.perf_counter() - started, time.process_time() - processor


def boxes(folder: str) -> dict[str, list[list[float]]]:
    """Return the boxes x, y, width, height of each item."""
    data = datumaro.Dataset.import_from(folder, "mvtec_detection")
    return {
        item.id: [list(a.get_bbox()) for a in item.annotations if a.type.name == "bbox"]
        for item in data
    }


if __name__ == "__main__":
    folder, out, what = sys.argv[1:]
    if what == "boxes":
        print(json.dumps(boxes(folder)))
    else:
        print(json.dumps([export(folder, out) for _ in range(int(what))]))
