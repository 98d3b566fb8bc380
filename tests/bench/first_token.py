"""When a llama-server, which need not be there yet, first gives a token: seconds of the kernel's monotonic clock.

python -m tests.bench.first_token URL
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request

_SECONDS = 60.0
_PAUSE = 0.02


def first_token(url: str) -> float:
    """The moment of the first answer to a request for one token; TimeoutError when none comes."""
    body = json.dumps({"prompt": "The sky is", "n_predict": 1, "cache_prompt": False}).encode()
    request = urllib.request.Request(f"{url}/completion", body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        try:
            with opener.open(request, timeout=60) as answer:
                if json.load(answer)["tokens_predicted"]:
                    return time.monotonic()
        except (urllib.error.URLError, ConnectionError, TimeoutError):  # 503 while the model is loaded
            time.sleep(_PAUSE)
    raise TimeoutError(f"{url} gave no token within {_SECONDS:g} s")


if __name__ == "__main__":
    print(first_token(sys.argv[1]))  # noqa: T201 - its result
