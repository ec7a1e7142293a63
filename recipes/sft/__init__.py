"""SFT: train on conversations, on the tokens that the assistant wrote."""
