"""Take every outcome that is waiting, then end. A service leaves idle_s out and runs for ever.

python take.py http://127.0.0.1:8081 API_TOKEN
"""

import json
import sys

from holdfast import Client


def main(api: str, token: str) -> None:
    """Print each message; the loop acknowledges it when it asks for the next one."""
    with Client(api, token) as holdfast:
        for message in holdfast.messages(idle_s=1):
            print(message.type, message.source, message.job_id, json.dumps(message.result))


if __name__ == "__main__":
    main(*sys.argv[1:3])
