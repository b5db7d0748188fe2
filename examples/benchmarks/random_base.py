"""Save a random base model of a chosen size as a folder, for what loads its base from one.

    python examples/benchmarks/random_base.py FOLDER --preset 7b --device cuda --dtype bfloat16    # 14.5 GB

Its answers mean nothing.
"""

import argparse
from pathlib import Path

import torch
from random_model import add_sizes, build_base, take_sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_sizes(parser)
    args = take_sizes(parser)
    torch.manual_seed(0)
    for part in build_base(args):
        part.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
