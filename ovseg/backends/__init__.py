"""Other people's models that answer words with masks: encoders and heads around networks of transformers."""
