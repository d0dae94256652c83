"""``python -m examples.servers triton [--http PORT] [--grpc PORT]``."""

import argparse
import tempfile
from pathlib import Path

from . import REQUIREMENTS, serving

parser = argparse.ArgumentParser("python -m examples.servers", description="Run one example server.")
parser.add_argument("name", choices=sorted(REQUIREMENTS))
parser.add_argument("--http", type=int, default=9000)
parser.add_argument("--grpc", type=int, default=9001)
flags = parser.parse_args()
with tempfile.TemporaryDirectory() as folder, serving(flags.name, Path(folder), flags.http, flags.grpc) as server:
    print(f"{server.name} serves lenet5 at {server.http} (gRPC {server.grpc}); Ctrl-C ends it", flush=True)
    server.process.wait()
