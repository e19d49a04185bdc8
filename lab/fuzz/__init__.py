"""Coverage-guided fuzzing of every reader of bytes that others write; one sentence of invariant each."""
