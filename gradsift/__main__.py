"""Entry point: run the command line and turn errors into one clear message and a documented exit code."""

import errno
import json
import sys

from gradsift.datastore.errors import GradsiftError, StoreFullError

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130


def main() -> None:
    """Run `gradsift`; exits with the code that docs/reference.md lists."""
    from cyclopts import CycloptsError

    from gradsift.cli import app

    try:
        app(exit_on_error=False)
    except CycloptsError:
        sys.exit(USAGE_EXIT)  # cyclopts has printed what is wrong
    except GradsiftError as error:
        sys.exit(_report(str(error), error.exit_code))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(_report("no space left on the disk; free some and run again", StoreFullError.exit_code))
    except KeyboardInterrupt:
        sys.exit(_report("stopped; run the same command again to go on", INTERRUPTED_EXIT))


def _report(message: str, code: int) -> int:
    if "--json" in sys.argv and not getattr(sys.modules.get("gradsift.cli.show"), "answered", False):
        print(json.dumps({"error": message, "exit_code": code}))
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    main()
