"""The model: tasks, prompts and answers (without torch), batcher, and generation (torch)."""
