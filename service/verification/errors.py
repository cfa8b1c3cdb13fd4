"""Why a verification cannot run."""


class VerificationError(Exception):
    """A verification cannot run; the message says what to do."""
