"""What can go wrong before anything is served; each message is a whole sentence for the person at the terminal."""


class EmbeddedError(Exception):
    """An embedded part cannot be used; the text says why and what to do."""


class AlreadyRunningError(EmbeddedError):
    """Another process serves from this data folder."""


class StartError(EmbeddedError):
    """A child did not come up in time; the text ends with the last lines of its log."""
