"""Score a folder, a glob, files or a table from the shell.

python -m nsfwlib.score FOLDER --model published --out scores.parquet
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nsfwlib.data import MAX_PIXELS
from nsfwlib.files import with_way_out
from nsfwlib.model import PRECISIONS, RUNTIMES, in_words
from nsfwlib.score.run import PLACES, score, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m nsfwlib.score`: score a folder, a glob, files or a table; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m nsfwlib.score", description=main.__doc__)
    add = parser.add_argument
    add("source", nargs="+", help="a folder, a glob, files, a table with the column path, or a URL")
    add("--model", default="published", help='a .keras or .onnx file, or "published" (%(default)s)')
    add("--out", type=Path, default=Path("scores.parquet"), help=".parquet, .csv or .jsonl (%(default)s)")
    add("--where", choices=PLACES, default="local", help="ray: the machines of a cluster")
    add("--runtime", choices=RUNTIMES, default="auto", help="auto: OpenVINO where it is installed")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bfloat16 where its answers agree (%(default)s)")
    add("--data-dir", type=Path, help="what the paths of a table are relative to")
    add("--class-names", type=lambda text: text.split(","), metavar="A,B,…", help="of a foreign model")
    rescaling = "of a foreign model: it is given rgb · SCALE + OFFSET (default: 1/255 and 0)"
    add("--rescaling", type=float, nargs=2, metavar=("SCALE", "OFFSET"), default=(1 / 255, 0.0), help=rescaling)
    add("--frames", type=int, default=8, help="of an animation or a video, at most (default: %(default)s)")
    add("--key-frames", action="store_true", help="of a video, only frames that stand by themselves: faster")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="larger pictures get no score (default: %(default)s)")
    add("--batch-size", type=int, default=16, help="pictures at a time (default: %(default)s)")
    add("--workers", type=int, help="threads that decode")
    add("--cache-dir", type=Path, help="where converted models are kept")
    add("--address", help="of a Ray cluster; default: this machine, or $RAY_ADDRESS")
    add("--actors", type=int, help="models on the Ray cluster; default: as many as fit")
    add("--gpus", type=float, default=0, help="of each Ray actor (default: %(default)s)")
    finished = parser.add_mutually_exclusive_group()
    finished.add_argument("--resume", action="store_true", help="take over the scores of a finished table")
    finished.add_argument("--overwrite", action="store_true", help="replace a finished table")
    add("--quiet", action="store_true", help="no progress")
    options = vars(parser.parse_args(arguments))
    source, quiet = options.pop("source"), options.pop("quiet")
    cluster = {name: value for name in ("address", "actors", "gpus") if (value := options.pop(name))}
    try:
        options |= {"cluster": cluster, "progress": not quiet}
        table = score(options.pop("model"), source[0] if len(source) == 1 else source, **options)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command goes on from here.\n")
        return 130
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        sys.stderr.write(f"{with_way_out(error, '--out, --cache-dir and of temporary files')}\n")
        return 2
    if not quiet:
        if table.attrs.get("agreement"):
            sys.stderr.write(f"Computed in {table.attrs['precision']}: {in_words(table.attrs['agreement'])}.\n")
        sys.stderr.write(f"{summary(table)}\n{options['out']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
