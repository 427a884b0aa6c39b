"""The one exception a user is meant to read."""


class InputError(Exception):
    """Input that cannot be used: bad data, a missing file, a flag that makes no sense.

    Its text is one sentence that names the file, the record or the flag and says what to do.
    The command line prints it on stderr and exits with 1, without a traceback (``--debug`` shows
    it); library code raises it as it is.
    """
