"""``python -m gwlbtun.lab`` is ``gwlbtun lab``."""

import argparse
import sys

from gwlbtun.lab.cli import fill_lab_parser, run_lab

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="gwlbtun lab")
    fill_lab_parser(parser)
    sys.exit(run_lab(parser.parse_args()))
