"""The style-based generative adversarial network: its networks, its training, and official weights for it."""
