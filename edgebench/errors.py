"""What the user can put right."""

from __future__ import annotations

import errno


class UserError(Exception):
    """A fault that the user can mend: the message names the file, flag or command, and the cure.

    A door prints it as `error: MESSAGE` on stderr and ends with `exit_code`.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# What helps where a file cannot be read or written and no flag is known that names it.
CURES = {
    errno.ENOSPC: "free some space there, and give the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and give the same command again",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EEXIST: "choose another place",
    errno.ENOTDIR: "a part of this path is a file: choose another",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def told(problem: UserError | OSError) -> str:
    """What went wrong, for the line of a door that begins with `error: `: no number of the system in it.

    >>> told(OSError(28, "No space left on device", "results/a.json"))
    'results/a.json: No space left on device; free some space there, and give the same command again'
    >>> told(UserError("no model; name one with --model"))
    'no model; name one with --model'
    """
    if isinstance(problem, UserError) or not problem.strerror:
        return str(problem)
    where = "" if problem.filename is None else f"{problem.filename}: "
    cure = CURES.get(problem.errno or 0)
    return f"{where}{problem.strerror}" + (f"; {cure}" if cure else "")
