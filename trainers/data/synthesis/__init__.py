"""Stage-1 data written by a language model: questions, answers and paraphrases of passages."""
