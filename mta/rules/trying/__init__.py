"""Rules tried without a server: at a prompt, in tests, in conversations, with what was recorded."""
