"""The errors that users see.

    HyperruleError
    ├── UserError             the request is wrong or cannot be carried out   exit code 2
    │   ├── RecipeError       an option or recipe key is unknown or out of range
    │   ├── DataError         the data set cannot be used
    │   ├── BackboneError     the backbone is unknown, or its file does not fit
    │   └── RunFolderError    the run folder is in use, missing, or belongs to another plan
    └── RunError              the work started but could not be finished      exit code 1
        └── Interrupted       stopped by SIGINT or SIGTERM; resumable         exit code 128 + signal

A message is one line: what is wrong, what is allowed, what was received, what to try next.
"""


class HyperruleError(Exception):
    """Base class. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UserError(HyperruleError):
    exit_code = 2


class RecipeError(UserError):
    pass


class DataError(UserError):
    pass


class BackboneError(UserError):
    pass


class RunFolderError(UserError):
    pass


class RunError(HyperruleError):
    pass


class Interrupted(RunError):
    """A signal stopped the run, after it wrote a checkpoint."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
