"""``ovseg serve``: one process and one model behind an HTTP API, a page and Label Studio (the extra ``serve``)."""
