"""A chat model that follows a rule, behind an OpenAI-compatible endpoint on localhost."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatModel:
    """Prefers an answer by a rule, and remembers what it was asked."""

    def __init__(self, prefers_first: Callable[[str, str], bool]) -> None:
        self.prefers_first = prefers_first
        self.questions: list[str] = []
        self.fails_after: int | None = None
        """From this question on it answers 503."""
        self.url = ""


@contextmanager
def chat_model(prefers_first: Callable[[str, str], bool]) -> Iterator[ChatModel]:
    """Serve a judge that answers A where ``prefers_first(first, second)``, else B."""
    model = ChatModel(prefers_first)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][0]["content"]
            model.questions.append(question)
            if model.fails_after is not None and len(model.questions) > model.fails_after:
                self.send_error(503)
                return
            first = question.split("<answer_a>\n")[1].split("\n</answer_a>")[0]
            second = question.split("<answer_b>\n")[1].split("\n</answer_b>")[0]
            letter = "A" if model.prefers_first(first, second) else "B"
            message = {"role": "assistant", "content": letter}
            content = json.dumps({"choices": [{"message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
