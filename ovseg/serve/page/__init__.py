"""The page of the server, made with gradio: words and clicks, banks and concepts, two models side by side."""
