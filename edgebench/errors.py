"""What the user can put right."""

from __future__ import annotations


class UserError(Exception):
    """A fault that the user can mend: the message names the file, flag or command, and the cure.

    A door prints it as `error: MESSAGE` on stderr and ends with `exit_code`.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
