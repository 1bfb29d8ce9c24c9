"""The one exception a user is meant to read."""


class FgpError(Exception):
    """Bad input or an impossible request.

    The message names the file, key or argument that is wrong and says what to do. The command line prints it without a traceback.
    """
