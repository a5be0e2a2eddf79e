"""A target under atheris (`pip install atheris`), which changes inputs by what code of ours they reach:

`PYTHONPATH=.:tests python -m fuzz.guided TARGET FOLDER -runs=100000`, with what options of libFuzzer one likes. Inputs that
reach something new and findings are kept in the folder; a finding does not end it, a process that dies does.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gradsift"]):
    from fuzz import targets  # noqa: F401 - registers them
    from fuzz.drive import TARGETS, finding, saved


def main() -> None:
    """Run what the command line asks for."""
    name, folder, *options = sys.argv[1:]
    one, known, corpus = TARGETS[name], set[str](), Path(folder) / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(one.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def check(data: bytes) -> None:
        why = finding(one, data)
        if why and why not in known:
            known.add(why)
            sys.stderr.write(f"{saved(one, data, Path(folder))}: {why}\n")

    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
