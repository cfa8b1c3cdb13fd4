"""Peak memory of this process while it waits for something.

tracemalloc counts the allocations of all threads, and threads of earlier tests may still allocate. So tests measure a
few times and take the least.
"""

import tracemalloc
from collections.abc import Awaitable


async def peak_bytes(done: Awaitable[object]) -> int:
    """The largest number of bytes allocated by Python while it is awaited, beyond those at its beginning."""
    tracemalloc.start()
    try:
        await done
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
