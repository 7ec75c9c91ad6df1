"""An application that submits through Holdfast and gets every result, although every webhook is lost.

python moderate.py http://127.0.0.1:8081 API_TOKEN
"""

import sys

from holdfast import Client

POSTS = {
    "post-1": "What a lovely morning.",
    "post-2": "Buy cheap watches now!",
    "post-3": "Does anybody know a good dentist?",
    "post-4": "I will find out where you live.",
    "post-5": "The meeting is at nine.",
}


def main(api: str, token: str) -> int:
    """Submit every post, then print each verdict as it is told."""
    with Client(api, token) as holdfast:
        waiting: dict[str, str] = {}
        for post, text in POSTS.items():
            answer = holdfast.submit("moderation", "api/v1/moderate/prompt", files={"prompt": (None, text)})
            answer.raise_for_status()
            waiting[answer.json()["job_id"]] = post
            print(f"{post}: submitted as {answer.json()['job_id']}")
        for message in holdfast.messages(idle_s=60):
            post = waiting.pop(message.job_id or "", "somebody else's")
            verdict = (message.result or {}).get("is_prohibited")
            print(f"{post}: {message.type}, prohibited: {verdict}, told by {message.data['decided_by']}")
            holdfast.ack(message.id)  # the loop does this by itself; here we may leave it first
            if not waiting:
                return 0
    print(f"never heard of {sorted(waiting.values())}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
