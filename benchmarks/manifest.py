"""Memory and time of a manifest of many addresses: written, planned, and its first block read.

    python benchmarks/manifest.py [--rows 10000000] [--format parquet]

Prints one JSON line. The addresses are made up; none is opened.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from toolkit.inference.manifest import read_block, read_manifest, write_manifest


def main() -> None:
    """Write, plan, read one block, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", default="parquet", choices=["parquet", "jsonl"])
    parser.add_argument("--block-rows", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "manifest"
        began = time.perf_counter()
        addresses = (f"s3://plant/line-{i % 7}/{i:012d}.png" for i in range(options.rows))
        write_manifest(addresses, out, form=options.format)
        written = time.perf_counter()
        manifest = read_manifest(out)
        blocks = manifest.blocks(options.block_rows)
        first = read_block(next(blocks))
        began_reading = time.perf_counter()
        count = 1 + sum(1 for _ in blocks)
        planned = time.perf_counter()
        print(
            json.dumps(
                {
                    "rows": manifest.rows,
                    "shards": len(manifest.shards),
                    "blocks": count,
                    "mb_on_disk": round(sum(f.stat().st_size for f in out.iterdir()) / 1e6),
                    "write_s": round(written - began, 1),
                    "first_block_s": round(began_reading - written, 3),
                    "first_block_rows": len(first),
                    "plan_s": round(planned - written, 2),
                    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )
        )


if __name__ == "__main__":
    main()
