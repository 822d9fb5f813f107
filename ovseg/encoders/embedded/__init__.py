"""The embedded encoders of the default model: small networks whose weights ship in the package."""
