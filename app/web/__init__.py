"""The pages: the Gradio app (`page`), the training report (`report`) and what they share."""
